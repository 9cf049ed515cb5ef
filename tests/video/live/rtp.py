"""H.264 in RTP packets, both ways (RFC 3550, RFC 6184 with packetization-mode=1)."""

from __future__ import annotations

import re
import struct
import time
from collections.abc import Sequence

MOST_PAYLOAD = 1400
START_CODE = b"\0\0\0\1"
IDR, SPS, PPS, STAP_A, FU_A = 5, 7, 8, 24, 28


def nal_units(annex_b: bytes) -> list[bytes]:
    """The NAL units between the start codes."""
    return [unit for unit in re.split(rb"\x00+\x00\x01", annex_b) if unit]


def nal_type(unit: bytes) -> int:
    """The kind of a NAL unit, as the constants above name it."""
    return unit[0] & 31


def h264_payloads(units: Sequence[bytes]) -> list[bytes]:
    """RTP payloads for the NAL units of one picture: whole where they fit, else FU-A pieces."""
    payloads = []
    for unit in units:
        if len(unit) <= MOST_PAYLOAD:
            payloads.append(unit)
            continue
        indicator, body = unit[0] & 0xE0 | FU_A, unit[1:]
        step = MOST_PAYLOAD - 2
        for start in range(0, len(body), step):
            first, last = start == 0, start + step >= len(body)
            header = first << 7 | last << 6 | nal_type(unit)
            payloads.append(bytes([indicator, header]) + body[start : start + step])
    return payloads


class RtpSender:
    """Numbers the packets of one RTP stream."""

    def __init__(self, payload_type: int, source: int, first_number: int) -> None:
        self.payload_type, self.source, self._number = payload_type, source, first_number
        self._packets = self._bytes = 0

    def packets(self, payloads: Sequence[bytes], timestamp: int) -> list[bytes]:
        """One picture's packets; the marker bit is on the last."""
        made = []
        for index, payload in enumerate(payloads):
            second = self.payload_type | (index == len(payloads) - 1) << 7
            header = (0x80, second, self._number, timestamp & 0xFFFFFFFF, self.source)
            made.append(struct.pack(">BBHII", *header) + payload)
            self._number = self._number + 1 & 0xFFFF
            self._bytes += len(payload)
        self._packets += len(made)
        return made

    def report(self, timestamp: int) -> bytes:
        """An RTCP sender report: which wall-clock time the RTP timestamp stands for."""
        ntp = int((time.time() + 2_208_988_800) * 2**32)  # NTP counts from 1900
        counts = (self._packets & 0xFFFFFFFF, self._bytes & 0xFFFFFFFF)
        return struct.pack(
            ">BBHIQIII", 0x80, 200, 6, self.source, ntp, timestamp & 0xFFFFFFFF, *counts
        )


class H264Receiver:
    """Puts pictures together from RTP packets; a picture that lacks a packet is left out."""

    def __init__(self, payload_type: int) -> None:
        self.payload_type, self.lost = payload_type, 0
        self._units: list[bytes] = []
        self._fragment: list[bytes] = []
        self._expected: int | None = None
        self._broken = False

    def push(self, packet: bytes) -> bytes | None:
        """The picture that this packet ends, in Annex B; None: none, or an incomplete one."""
        first, second, number = struct.unpack_from(">BBH", packet)
        if second & 127 != self.payload_type:
            return None
        start = 12 + 4 * (first & 15)
        if first & 0x10:
            start += 4 + 4 * int(struct.unpack_from(">H", packet, start + 2)[0])
        end = len(packet) - (packet[-1] if first & 0x20 else 0)
        self._broken |= self._expected not in (None, number)
        self._expected = number + 1 & 0xFFFF
        self._take(packet[start:end])
        if not second & 0x80:
            return None
        units, broken = self._units, self._broken
        self._units, self._broken = [], False
        self.lost += broken
        return None if broken else b"".join(START_CODE + unit for unit in units)

    def _take(self, payload: bytes) -> None:
        kind = nal_type(payload)
        if kind == STAP_A:
            at = 1
            while at + 2 <= len(payload):
                size = int.from_bytes(payload[at : at + 2], "big")
                self._units.append(payload[at + 2 : at + 2 + size])
                at += 2 + size
        elif kind == FU_A:
            header = payload[1]
            if header & 0x80:
                self._fragment = [bytes([payload[0] & 0xE0 | header & 31])]
            self._fragment.append(payload[2:])
            if header & 0x40:
                self._units.append(b"".join(self._fragment))
        else:
            self._units.append(payload)
