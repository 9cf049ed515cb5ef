/* Streams, events and graphs. */
#include "calls.h"

namespace {

enum { NON_BLOCKING = 1, DISABLE_TIMING = 2, CAPTURING = 1 };

/* What the host waited for: the context's own error, else the one of what ran. */
int waited(int result) {
    const int sticky = machine().context->sticky;
    return sticky ? sticky : result;
}

}  // namespace

#define NEEDS_STREAM(stream) \
    if (!find_stream(stream)) return INVALID_HANDLE
#define NEEDS_EVENT(event) \
    if (!context->events.count(event)) return INVALID_HANDLE

static int stream_create(Stream **answer, unsigned flags) {
    ENTER("cuStreamCreate", Needs::context);
    if (flags != NON_BLOCKING) return INVALID_VALUE;
    *answer = new Stream;
    machine().all_streams.push_back(*answer);
    context->streams.insert(*answer);
    return OK;
}

/* What is queued still runs, some time. */
static int stream_destroy(Stream *stream) {
    ENTER("cuStreamDestroy", Needs::context);
    if (!context->streams.count(stream)) return INVALID_HANDLE;
    context->streams.erase(stream);
    stream->open = false;
    return OK;
}

static int stream_synchronize(Stream *stream) {
    ENTER("cuStreamSynchronize", Needs::context);
    NEEDS_STREAM(stream);
    return waited(drain(stream));
}

/* Whoever polls gets on by one piece with each question. */
static int stream_query(Stream *stream) {
    ENTER("cuStreamQuery", Needs::context);
    NEEDS_STREAM(stream);
    if (stream->queue.empty() && !stream->capture) return OK;
    Event end{false, nullptr};
    if (stream->capture) return drain(stream);
    auto mark = std::make_shared<Mark>(Mark{stream, nullptr, {}, false, 0});
    stream->queue.push_back(Piece{nullptr, mark, nullptr});
    const int result = waited(approach(mark));
    if (result) return result;
    if (!mark->reached) stream->queue.pop_back();
    return stream->queue.empty() ? OK : NOT_READY;
}

static int stream_wait(Stream *stream, Event *event, unsigned flags) {
    ENTER("cuStreamWaitEvent", Needs::context);
    NEEDS_STREAM(stream);
    NEEDS_EVENT(event);
    return flags ? (int)INVALID_VALUE : wait_for(stream, event);
}

static int event_create(Event **answer, unsigned flags) {
    ENTER("cuEventCreate", Needs::context);
    if (flags & ~DISABLE_TIMING) return INVALID_VALUE;
    *answer = new Event{!(flags & DISABLE_TIMING), nullptr};
    context->events.insert(*answer);
    return OK;
}

static int event_destroy(Event *event) {
    ENTER("cuEventDestroy", Needs::context);
    NEEDS_EVENT(event);
    context->events.erase(event);
    delete event;
    return OK;
}

static int event_record(Event *event, Stream *stream) {
    ENTER("cuEventRecord", Needs::context);
    if (!stream) stream = (Stream *)1; /* elsewhere a null is more likely a mistake */
    NEEDS_STREAM(stream);
    NEEDS_EVENT(event);
    record(stream, event);
    return OK;
}

static int event_query(Event *event) {
    ENTER("cuEventQuery", Needs::context);
    NEEDS_EVENT(event);
    if (!event->mark || event->mark->reached) return OK;
    const int result = waited(approach(event->mark));
    return result ? result : event->mark->reached ? OK : NOT_READY;
}

static int event_synchronize(Event *event) {
    ENTER("cuEventSynchronize", Needs::context);
    NEEDS_EVENT(event);
    return event->mark ? waited(reach(event->mark)) : OK;
}

static int event_elapsed(float *milliseconds, Event *start, Event *end) {
    ENTER("cuEventElapsedTime", Needs::context);
    NEEDS_EVENT(start);
    NEEDS_EVENT(end);
    if (!start->timing || !end->timing || !start->mark || !end->mark) return INVALID_HANDLE;
    if (!start->mark->reached || !end->mark->reached) return NOT_READY;
    *milliseconds = (float)((end->mark->seconds - start->mark->seconds) * 1e3);
    return OK;
}

static int capture_begin(Stream *stream, int mode) {
    ENTER("cuStreamBeginCapture", Needs::context);
    NEEDS_STREAM(stream);
    return begin_capture(stream, mode);
}

/* Takes the streams out of the capture even where it answers an error, as the guide says. */
static int capture_end(Stream *stream, Graph **answer) {
    std::lock_guard<std::recursive_mutex> lock(machine().lock);
    const int before = enter("cuStreamEndCapture", Needs::context);
    Context *context = machine().context;
    *answer = nullptr;
    if (!context || !context->streams.count(stream)) return before ? before : (int)INVALID_HANDLE;
    std::vector<Work> work;
    const int refused = end_capture(stream, &work);
    if (before || refused) return before ? before : refused;
    *answer = new Graph{std::move(work)};
    context->graphs.insert(*answer);
    return OK;
}

static int capture_status(Stream *stream, int *status) {
    ENTER("cuStreamIsCapturing", Needs::context);
    NEEDS_STREAM(stream);
    *status = stream->capture ? CAPTURING : 0;
    return OK;
}

static int graph_instantiate(Graph **answer, Graph *graph, uint64_t) {
    ENTER("cuGraphInstantiate", Needs::context);
    if (!context->graphs.count(graph)) return INVALID_HANDLE;
    *answer = new Graph(*graph);
    context->executables.insert(*answer);
    return OK;
}

static int graph_destroy(Graph *graph) {
    ENTER("cuGraphDestroy", Needs::context);
    if (!context->graphs.erase(graph)) return INVALID_HANDLE;
    delete graph;
    return OK;
}

static int graph_launch(Graph *graph, Stream *stream) {
    ENTER("cuGraphLaunch", Needs::context);
    NEEDS_STREAM(stream);
    if (!context->executables.count(graph)) return INVALID_HANDLE;
    for (const Work &work : graph->work)
        if (const int refused = enqueue(stream, work)) return refused;
    return OK;
}

static int graph_exec_destroy(Graph *graph) {
    ENTER("cuGraphExecDestroy", Needs::context);
    if (!context->executables.erase(graph)) return INVALID_HANDLE;
    delete graph;
    return OK;
}

const Entry work_calls[] = {
    {"cuStreamCreate", (void *)stream_create},
    {"cuStreamDestroy", (void *)stream_destroy},
    {"cuStreamSynchronize", (void *)stream_synchronize},
    {"cuStreamQuery", (void *)stream_query},
    {"cuStreamWaitEvent", (void *)stream_wait},
    {"cuEventCreate", (void *)event_create},
    {"cuEventDestroy", (void *)event_destroy},
    {"cuEventRecord", (void *)event_record},
    {"cuEventQuery", (void *)event_query},
    {"cuEventSynchronize", (void *)event_synchronize},
    {"cuEventElapsedTime", (void *)event_elapsed},
    {"cuStreamBeginCapture", (void *)capture_begin},
    {"cuStreamEndCapture", (void *)capture_end},
    {"cuStreamIsCapturing", (void *)capture_status},
    {"cuGraphInstantiate", (void *)graph_instantiate},
    {"cuGraphInstantiateWithFlags", (void *)graph_instantiate},
    {"cuGraphDestroy", (void *)graph_destroy},
    {"cuGraphLaunch", (void *)graph_launch},
    {"cuGraphExecDestroy", (void *)graph_exec_destroy},
    {nullptr, nullptr},
};
