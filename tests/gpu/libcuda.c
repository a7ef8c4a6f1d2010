/* A driver in memory, as far as the contract of engine/cuda/cuda.py goes: what cuda-bindings is tried on where there is no GPU.
   Handles are pointers, device memory is host memory, and every verb wants a current context. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

typedef struct Copy { void *to; const void *from; size_t size; struct Copy *next; } Copy;
typedef struct { Copy *first, **last; } Graph;
typedef struct { Graph *capturing; } Stream;
enum { INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_DEVICE = 101, INVALID_CONTEXT = 201, NOT_FOUND = 500 };

static const size_t TOTAL = (size_t)1 << 33;
static size_t used;
static int depth, retained;
#define CURRENT if (!depth) return INVALID_CONTEXT

int cuInit(unsigned flags) { return flags ? INVALID_VALUE : 0; }
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return ordinal ? INVALID_DEVICE : 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { retained++; *context = &retained; return device; }
int cuDevicePrimaryCtxRelease(int device) { return depth || !retained-- ? INVALID_CONTEXT : device; } /* none may be current */
int cuCtxPushCurrent(void *context) { depth++; return context == &retained ? 0 : INVALID_CONTEXT; }
int cuCtxPopCurrent(void **context) { CURRENT; depth--; *context = &retained; return 0; }
int cuMemGetInfo(size_t *available, size_t *total) { CURRENT; *available = TOTAL - used; *total = TOTAL; return 0; }

int cuMemAlloc(void **pointer, size_t size) {
    CURRENT;
    if (size > TOTAL - used) return OUT_OF_MEMORY;
    size_t *memory = malloc(size + 16);
    *memory = size;
    used += size;
    *pointer = memory + 2;
    return 0;
}
int cuMemFree(void *pointer) { CURRENT; size_t *memory = (size_t *)pointer - 2; used -= *memory; free(memory); return 0; }
int cuMemHostAlloc(void **pointer, size_t size, unsigned flags) { CURRENT; *pointer = malloc(size); return flags; }
int cuMemFreeHost(void *pointer) { CURRENT; free(pointer); return 0; }

int cuStreamCreate(Stream **stream, unsigned flags) {
    CURRENT;
    *stream = calloc(1, sizeof(Stream));
    return flags == 1 ? 0 : INVALID_VALUE; /* CU_STREAM_NON_BLOCKING */
}
int cuStreamDestroy(Stream *stream) { CURRENT; free(stream); return 0; }
int cuStreamSynchronize(Stream *stream) { CURRENT; return stream->capturing ? INVALID_VALUE : 0; }

static int copy(void *to, const void *from, size_t size, Stream *stream) {
    CURRENT;
    if (!stream->capturing) { memcpy(to, from, size); return 0; }
    Copy *noted = malloc(sizeof(Copy));
    *noted = (Copy){to, from, size, NULL};
    *stream->capturing->last = noted;
    stream->capturing->last = &noted->next;
    return 0;
}
int cuMemcpyHtoDAsync(void *to, const void *from, size_t size, Stream *stream) { return copy(to, from, size, stream); }
int cuMemcpyDtoHAsync(void *to, const void *from, size_t size, Stream *stream) { return copy(to, from, size, stream); }

int cuEventCreate(void **event, unsigned flags) { CURRENT; *event = malloc(1); return flags; }
int cuEventDestroy(void *event) { CURRENT; free(event); return 0; }
int cuEventRecord(void *event, Stream *stream) { CURRENT; return event && stream ? 0 : INVALID_VALUE; }
int cuEventElapsedTime(float *ms, void *begin, void *end) { CURRENT; *ms = 1; return begin == end ? INVALID_VALUE : 0; }

int cuStreamBeginCapture(Stream *stream, int mode) {
    CURRENT;
    stream->capturing = malloc(sizeof(Graph));
    *stream->capturing = (Graph){NULL, &stream->capturing->first};
    return mode == 1 ? 0 : INVALID_VALUE; /* CU_STREAM_CAPTURE_MODE_THREAD_LOCAL */
}
int cuStreamEndCapture(Stream *stream, Graph **graph) {
    CURRENT;
    *graph = stream->capturing;
    stream->capturing = NULL;
    return *graph ? 0 : INVALID_VALUE;
}
int cuGraphInstantiateWithFlags(Graph **made, Graph *graph, unsigned long long flags) {
    CURRENT;
    *made = malloc(sizeof(Graph));
    **made = *graph; /* an own copy, as the graph is destroyed */
    return (int)flags;
}
int cuGraphDestroy(Graph *graph) { CURRENT; free(graph); return 0; }
int cuGraphExecDestroy(Graph *graph) { CURRENT; free(graph); return 0; }
int cuGraphLaunch(Graph *graph, Stream *stream) {
    for (Copy *noted = graph->first; noted; noted = noted->next) copy(noted->to, noted->from, noted->size, stream);
    return 0;
}

/* A module is its image, and all its kernels write what they were launched with to where their first pointer points. */
int cuModuleLoadData(void **module, const void *image) { CURRENT; *module = strdup(image); return 0; }
int cuModuleUnload(void *module) { CURRENT; free(module); return 0; }
int cuModuleGetFunction(void **function, void *module, const char *name) {
    CURRENT;
    *function = module;
    return strstr(module, name) ? 0 : NOT_FOUND;
}
int cuLaunchKernel(void *function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned threads_y, unsigned threads_z,
                   unsigned shared, Stream *stream, void **arguments, void **extra) {
    CURRENT;
    if (!function || z != 1 || threads_y != 1 || threads_z != 1 || shared || !stream || extra) return INVALID_VALUE;
    const long long said[] = {x, y, threads, *(int *)arguments[0], (long long)*(void **)arguments[2]};
    memcpy(*(void **)arguments[1], said, sizeof said);
    return 0;
}

int cuGetProcAddress_v2(const char *name, void **found, int version, unsigned long long flags, int *status) {
    (void)version, (void)flags;
    Dl_info self;
    dladdr(&retained, &self);
    void *library = dlopen(self.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
    *found = dlsym(library, strcmp(name, "cuGraphInstantiate") ? name : "cuGraphInstantiateWithFlags");
    if (status) *status = !*found;
    return *found ? 0 : NOT_FOUND;
}
