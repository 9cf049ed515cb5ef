/* Streams, events and captures: who runs when. */
#include "machine.h"

#include <algorithm>
#include <chrono>

namespace {

double now() {
    using namespace std::chrono;
    return duration<double>(steady_clock::now().time_since_epoch()).count();
}

/* Runs one piece, with what it depends on. */
int step(Stream *stream) {
    Piece piece = std::move(stream->queue.front());
    stream->queue.pop_front();
    if (piece.record) {
        piece.record->reached = true;
        piece.record->seconds = now();
        return OK;
    }
    if (piece.wait) return reach(piece.wait);
    Context *context = machine().context;
    if (context && context->sticky) return context->sticky;
    const int result = piece.work();
    if (result && context) context->sticky = result;
    return result;
}

/* Runs what the schedule runs now that `stream` has something new. */
int stir(Stream *stream) {
    Machine &here = machine();
    if (here.schedule == Schedule::late) return OK;
    /* An error of what ran shows at the next call that waits: it sticks to the context. */
    if (here.schedule == Schedule::early) {
        drain(stream);
        return OK;
    }
    Stream *other = here.all_streams[here.random() % here.all_streams.size()];
    for (unsigned left = here.random() % 4; left && !other->queue.empty(); left--) step(other);
    return OK;
}

void join(Stream *stream, const std::shared_ptr<Capture> &capture) {
    stream->capture = capture;
    capture->counts.insert({stream, 0});
}

int broken(const std::shared_ptr<Capture> &capture, int result) {
    capture->broken = true;
    return result;
}

}  // namespace

int enqueue(Stream *stream, Work work) {
    if (!stream->capture) {
        stream->queue.push_back(Piece{std::move(work), nullptr, nullptr});
        return stir(stream);
    }
    Capture &capture = *stream->capture;
    if (capture.broken) return CAPTURE_INVALIDATED;
    capture.work.push_back(std::move(work));
    stream->clock[stream] = ++capture.counts[stream];
    return OK;
}

void record(Stream *stream, Event *event) {
    event->mark = std::make_shared<Mark>(Mark{stream, stream->capture, stream->clock, false, 0});
    if (stream->capture) return;
    stream->queue.push_back(Piece{nullptr, event->mark, nullptr});
    stir(stream);
}

int wait_for(Stream *stream, const Event *event) {
    const auto &mark = event->mark;
    if (!mark) return OK;
    if (!mark->capture) {
        if (stream->capture) return broken(stream->capture, CAPTURE_ISOLATION);
        stream->queue.push_back(Piece{nullptr, nullptr, mark});
        return stir(stream);
    }
    const bool running = mark->stream->capture == mark->capture;
    if (!stream->capture && running) join(stream, mark->capture);
    if (stream->capture != mark->capture) return CAPTURED_EVENT;
    for (const auto &one : mark->clock)
        stream->clock[one.first] = std::max(stream->clock[one.first], one.second);
    return OK;
}

int drain(Stream *stream) {
    if (stream->capture) return broken(stream->capture, CAPTURE_UNSUPPORTED);
    int first = OK;
    while (!stream->queue.empty()) {
        const int result = step(stream);
        if (!first) first = result;
    }
    return first;
}

int approach(const std::shared_ptr<Mark> &mark) {
    if (mark->capture) return broken(mark->capture, CAPTURED_EVENT);
    /* A stream's work is never dropped, so the mark is reached before the queue is empty. */
    return mark->reached ? OK : step(mark->stream);
}

int reach(const std::shared_ptr<Mark> &mark) {
    int first = OK;
    if (mark->capture) return approach(mark);
    while (!mark->reached) {
        const int result = approach(mark);
        if (!first) first = result;
    }
    return first;
}

int drain_all() {
    auto &streams = machine().all_streams;
    int first = OK;
    for (auto one = streams.rbegin(); one != streams.rend(); ++one) {
        const int result = drain(*one);
        if (!first) first = result;
    }
    return first;
}

int begin_capture(Stream *stream, int mode) {
    if (stream->capture) return broken(stream->capture, CAPTURE_UNSUPPORTED);
    auto capture = std::make_shared<Capture>();
    capture->origin = stream;
    capture->thread = std::this_thread::get_id();
    capture->mode = mode;
    capture->broken = false;
    join(stream, capture);
    return OK;
}

int end_capture(Stream *stream, std::vector<Work> *work) {
    auto capture = stream->capture;
    if (!capture || capture->origin != stream) return CAPTURE_UNMATCHED;
    if (capture->mode != 2 && capture->thread != std::this_thread::get_id())
        return CAPTURE_WRONG_THREAD;
    const auto seen = stream->clock;
    bool joined = true;
    for (const auto &one : capture->counts) {
        const auto found = seen.find(one.first);
        joined = joined && one.second <= (found == seen.end() ? 0 : found->second);
        one.first->capture = nullptr;
        one.first->clock.clear();
    }
    if (capture->broken) return CAPTURE_INVALIDATED;
    if (!joined) return CAPTURE_UNJOINED;
    *work = std::move(capture->work);
    return OK;
}

bool capture_forbids_waiting() {
    for (Stream *stream : machine().all_streams) {
        const auto &capture = stream->capture;
        if (!capture || capture->mode == 2) continue;
        /* Mode 0 is for all threads, mode 1 for the one that captures. */
        if (capture->mode == 1 && capture->thread != std::this_thread::get_id()) continue;
        capture->broken = true;
        return true;
    }
    return false;
}

size_t pending() {
    size_t count = 0;
    for (const Stream *stream : machine().all_streams) count += stream->queue.size();
    return count;
}
