"""What is known of a queue without simulating it: loads, waits and drops in closed form.

They hold the simulation in `queueing` to account, and give it a number of devices to begin with.
Times are in seconds, rates in frames per second, a load in devices that it keeps busy.
"""

from __future__ import annotations

import math


def erlang_c(servers: int, load: float) -> float:
    """The probability that a frame has to wait in M/M/c (Erlang 1917).

    By the recursion of Erlang's B, which neither overflows nor loses digits. 1 where the load
    is `servers` or more.
    """
    if load >= servers:
        return 1.0
    blocked = 1.0
    for number in range(1, servers + 1):
        blocked = load * blocked / (number + load * blocked)
    return servers * blocked / (servers - load * (1 - blocked))


def mean_wait(
    rate: float,
    service_s: float,
    *,
    arrivals_scv: float = 1.0,
    service_scv: float = 0.0,
    servers: int = 1,
) -> float:
    """Mean wait in a queue without drops, G/G/c: Allen and Cunneen's approximation.

        Wq = (Ca^2 + Cs^2) / 2 * C(c, a) / (c / S - rate)

    Exact for M/M/c and M/G/1 (Pollaczek and Khinchine); for one server it is Kingman's bound in
    heavy traffic. Source: Allen, "Probability, Statistics, and Queueing Theory", 2nd ed. 1990,
    5.3. Many cameras of random phase look like Poisson arrivals (Ca^2 = 1) while the backlog is
    shorter than a period; they never queue longer than those.

    Args:
        arrivals_scv, service_scv: squared coefficients of variation: variance over squared mean.

    Infinite where the load is `servers` or more.
    """
    load = rate * service_s
    if load >= servers:
        return math.inf
    busy = erlang_c(servers, load) * service_s / (servers - load)
    return (arrivals_scv + service_scv) / 2 * busy


def periodic_backlog_exceeds(sources: int, period_s: float, service_s: float, s: float) -> float:
    """P(backlog > `s` seconds) of one server with periodic sources: N*D/D/1, exact.

    Each source gives a frame each `period_s`, at a phase of its own, uniform and independent;
    each frame takes `service_s`. With D = period / service and x = s / service,

        sum over x < n <= N of  C(N, n) ((n - x) / D)^n (1 - (n - x) / D)^(N - n)
                                * (D - N + x) / (D - n + x)

    Source: Roberts and Virtamo, "The superposition of periodic cell arrival processes in an ATM
    multiplexer", IEEE Transactions on Communications 39(2), 1991. 1 where the load is 1 or more
    (the backlog then grows for ever).
    """
    d, x = period_s / service_s, s / service_s
    if sources > d:
        return 1.0
    total = 0.0
    for n in range(max(0, math.floor(x)) + 1, sources + 1):
        share = (n - x) / d
        others = sources - n
        if share >= 1:  # only n = N = D and x = 0: certain
            return 1.0
        chosen = math.lgamma(sources + 1) - math.lgamma(n + 1) - math.lgamma(others + 1)
        log = chosen + n * math.log(share) + others * math.log1p(-share)
        total += math.exp(log) * (d - sources + x) / (d - n + x)
    return min(1.0, total)


def periodic_wait_percentile(
    sources: int, period_s: float, service_s: float, percent: float
) -> float:
    """The wait that `percent` of the frames do not exceed, in N*D/D/1; over all phases.

    A frame finds the backlog of the other sources: those are N - 1, with phases uniform around
    its own. Infinite where the load is more than 1.
    """
    if sources * service_s > period_s:
        return math.inf
    most = 1 - percent / 100
    low, high = 0.0, sources * service_s
    if periodic_backlog_exceeds(sources - 1, period_s, service_s, 0.0) <= most:
        return 0.0
    for _ in range(60):
        middle = (low + high) / 2
        if periodic_backlog_exceeds(sources - 1, period_s, service_s, middle) > most:
            low = middle
        else:
            high = middle
    return high


def least_drops(load: float, servers: int) -> float:
    """The share of frames that must be dropped, 0 to 1: what the servers have no time for.

    Equal to it where they are never idle: with constant times and more load than servers.
    """
    return max(0.0, 1 - servers / load) if load > 0 else 0.0
