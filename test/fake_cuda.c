/* Copyright 2026 the rgbx_seg authors
 * SPDX-License-Identifier: Apache-2.0
 *
 * A CUDA driver library without a GPU, stricter than the real one: test/fake_gpu.py builds it.
 *
 * Nothing that is put on a stream happens before somebody waits for it, so that a forgotten wait
 * shows as old data. Device memory lies at addresses that the processor cannot read, and every
 * access is checked against what is allocated. A thread without a current context gets error 201.
 * All that lives is counted, and the n-th call of a function, or of any, can be made to fail.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))
#define NOT_INITIALIZED 3
#define INVALID_VALUE 1
#define OUT_OF_MEMORY 2
#define NO_DEVICE 100
#define INVALID_DEVICE 101
#define INVALID_CONTEXT 201
#define INVALID_HANDLE 400
#define NOT_READY 600
#define ILLEGAL_ADDRESS 700
#define CONTEXT_IS_DESTROYED 709
#define LAUNCH_FAILED 719
#define CAPTURE_UNSUPPORTED 900
#define CAPTURE_INVALIDATED 901
#define MAX_OBJECTS 4096
#define MAX_FUNCTIONS 128
#define DEVICE_BASE 0x600000000000ULL /* never mapped by Linux for a process of ours */
#define PAGE 4096

typedef int Code;
typedef uint64_t Address;
typedef int (*Kernel)(uint64_t id);

typedef struct Event Event;
typedef enum { TO_DEVICE, TO_HOST, SET, KERNEL, WAIT } OperationKind;
typedef struct {
  OperationKind kind;
  void *host;
  Address device;
  size_t bytes;
  Kernel kernel;
  uint64_t id;
  Event *event;
  unsigned char value; /* SET */
  uint64_t position; /* WAIT: what of the event's stream must have been done */
} Operation;
typedef struct {
  Operation *items;
  size_t count, capacity;
} Operations;
typedef enum { DEVICE, PINNED, STREAM, EVENT, GRAPH, EXEC, KINDS } Kind;
typedef struct Stream Stream;
typedef struct {
  Kind kind;
  int alive;
} Header;
struct Stream {
  Header header;
  int priority;
  Operations queue; /* what still has to be done, the oldest first */
  uint64_t enqueued, done;
  Operations captured;
  int capturing, broken;
};
struct Event {
  Header header;
  Stream *stream;
  uint64_t position;
  int looks; /* queries since it was recorded */
};
typedef struct {
  Header header;
  Operations operations;
} Graph; /* also what was instantiated of one */
typedef struct {
  Header header;
  Address device; /* 0: the GPU cannot see it */
  void *host;
  size_t bytes;
} Block;
typedef struct {
  int retained, generation;
  Code sticky;
} Context;

static pthread_mutex_t lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static Header *objects[MAX_OBJECTS];
static size_t object_count, alive[KINDS];
static Address next_address = DEVICE_BASE;
static Context contexts[2]; /* [generation % 2]: a stale handle is told from a living one */
static int generation;
static _Thread_local Context *current;
static _Thread_local int current_generation;
static int initialized;

static struct {
  long long count, major, minor, integrated, driver, memory, used, patience, init;
  char name[128];
} machine;
static struct {
  long long device_bytes, pinned_bytes, leaked, pageable, abandoned, launches, captures, copies,
      kernels, calls;
} count;
static struct {
  const char *name;
  long long calls;
} functions[MAX_FUNCTIONS];
static struct {
  char name[64];
  long long left;
  Code code;
  const char *hit;
} fault;

static const struct {
  Code code;
  const char *name, *text;
} errors[] = {
    {0, "CUDA_SUCCESS", "no error"},
    {1, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {3, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {34, "CUDA_ERROR_STUB_LIBRARY", "CUDA driver is a stub library"},
    {46, "CUDA_ERROR_DEVICE_UNAVAILABLE", "CUDA-capable device(s) is/are busy or unavailable"},
    {100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {101, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {201, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {400, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {600, "CUDA_ERROR_NOT_READY", "device not ready"},
    {700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {709, "CUDA_ERROR_CONTEXT_IS_DESTROYED", "context is destroyed"},
    {719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "system has unsupported display driver"},
    {900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when capturing"},
    {901, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "previous error during capture"},
    {999, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

/* ---- what the test sets and reads ---- */

static long long from_environment(const char *name, long long value) {
  const char *text = getenv(name);
  return text ? strtoll(text, NULL, 10) : value;
}

static void set_machine(void) {
  machine.count = from_environment("FAKE_GPU_COUNT", 1);
  machine.major = from_environment("FAKE_GPU_MAJOR", 8);
  machine.minor = from_environment("FAKE_GPU_MINOR", 6);
  machine.integrated = from_environment("FAKE_GPU_INTEGRATED", 0);
  machine.driver = from_environment("FAKE_GPU_DRIVER", 13000);
  machine.memory = from_environment("FAKE_GPU_MEMORY", 8LL << 30);
  machine.used = from_environment("FAKE_GPU_USED", 1LL << 30);
  machine.patience = from_environment("FAKE_GPU_PATIENCE", 1);
  machine.init = from_environment("FAKE_GPU_INIT", 0);
  const char *name = getenv("FAKE_GPU_NAME");
  snprintf(machine.name, sizeof machine.name, "%s", name ? name : "Fake RTX A2000");
}

EXPORT int fake_set(const char *key, long long value) {
  struct {
    const char *key;
    long long *place;
  } places[] = {{"count", &machine.count},           {"major", &machine.major},
                {"minor", &machine.minor},           {"integrated", &machine.integrated},
                {"driver", &machine.driver},         {"memory", &machine.memory},
                {"used", &machine.used},             {"patience", &machine.patience},
                {"init", &machine.init}};
  for (size_t i = 0; i < sizeof places / sizeof *places; i++)
    if (!strcmp(places[i].key, key)) {
      *places[i].place = value;
      return 0;
    }
  return 1;
}

EXPORT void fake_set_name(const char *name) {
  snprintf(machine.name, sizeof machine.name, "%s", name);
}

/* Let the n-th call from now on of a function fail with a code; "*" is any function. */
EXPORT void fake_fail(const char *name, long long nth, Code code) {
  snprintf(fault.name, sizeof fault.name, "%s", name);
  fault.left = nth;
  fault.code = code;
  fault.hit = NULL;
}

EXPORT const char *fake_failed(void) { return fault.hit; } /* NULL: no call has failed yet */

EXPORT long long fake_calls(const char *name) {
  for (size_t i = 0; i < MAX_FUNCTIONS && functions[i].name; i++)
    if (!strcmp(functions[i].name, name))
      return functions[i].calls;
  return 0;
}

EXPORT long long fake_count(const char *what) {
  struct {
    const char *what;
    long long value;
  } values[] = {{"device", alive[DEVICE]},
                {"pinned", alive[PINNED]},
                {"streams", alive[STREAM]},
                {"events", alive[EVENT]},
                {"graphs", alive[GRAPH]},
                {"execs", alive[EXEC]},
                {"contexts", contexts[generation % 2].retained},
                {"device_bytes", count.device_bytes},
                {"pinned_bytes", count.pinned_bytes},
                {"leaked", count.leaked}, /* objects that died with the context */
                {"pageable", count.pageable}, /* copies from or to memory that is not pinned */
                {"abandoned", count.abandoned}, /* operations of streams that were destroyed */
                {"launches", count.launches},
                {"captures", count.captures},
                {"copies", count.copies},
                {"kernels", count.kernels},
                {"calls", count.calls}};
  for (size_t i = 0; i < sizeof values / sizeof *values; i++)
    if (!strcmp(values[i].what, what))
      return values[i].value;
  return -1;
}

EXPORT int fake_priorities(int *priorities, int most) { /* of the streams that live */
  int found = 0;
  for (size_t i = 0; i < object_count; i++)
    if (objects[i]->alive && objects[i]->kind == STREAM && found < most)
      priorities[found++] = ((Stream *)objects[i])->priority;
  return found;
}

/* ---- what lives ---- */

static void *create(Kind kind, size_t bytes) {
  Header *object = object_count < MAX_OBJECTS ? calloc(1, bytes) : NULL;
  if (object == NULL)
    return NULL;
  object->kind = kind;
  object->alive = 1;
  alive[kind]++;
  objects[object_count++] = object;
  return object;
}

static void *living(const void *handle, Kind kind) {
  for (size_t i = 0; i < object_count; i++)
    if (objects[i] == handle && objects[i]->alive && objects[i]->kind == kind)
      return objects[i];
  return NULL;
}

static void destroy(void *object) {
  Header *header = object;
  alive[header->kind]--;
  if (header->kind == DEVICE || header->kind == PINNED) {
    Block *block = object;
    *(header->kind == DEVICE ? &count.device_bytes : &count.pinned_bytes) -= block->bytes;
    free(block->host);
  } else if (header->kind == STREAM) {
    if (!contexts[generation % 2].sticky) /* else nothing could be waited for */
      count.abandoned += ((Stream *)object)->queue.count;
    free(((Stream *)object)->queue.items);
    free(((Stream *)object)->captured.items);
  } else if (header->kind != EVENT) {
    free(((Graph *)object)->operations.items);
  }
  for (size_t i = 0; i < object_count; i++)
    if (objects[i] == header)
      objects[i] = objects[--object_count];
  free(header);
}

static void destroy_all(void) {
  while (object_count) {
    count.leaked++;
    destroy(objects[0]);
  }
}

EXPORT void fake_reset(void) { /* as the library is when it is loaded */
  pthread_mutex_lock(&lock);
  destroy_all();
  generation++;
  memset(contexts, 0, sizeof contexts);
  memset(&count, 0, sizeof count);
  memset(functions, 0, sizeof functions);
  memset(&fault, 0, sizeof fault);
  initialized = 0;
  current = NULL;
  set_machine();
  pthread_mutex_unlock(&lock);
}

__attribute__((constructor)) static void loaded(void) { set_machine(); }

/* Return where device memory lies in the memory of the process; NULL if it is not allocated. */
EXPORT void *fake_memory(Address address, size_t bytes) {
  for (size_t i = 0; i < object_count; i++) {
    Block *block = (Block *)objects[i];
    if (block->header.kind > PINNED || block->device == 0 || address < block->device)
      continue;
    size_t offset = address - block->device;
    if (offset <= block->bytes && bytes <= block->bytes - offset)
      return (char *)block->host + offset;
  }
  return NULL;
}

static int is_pinned(const void *host, size_t bytes) {
  for (size_t i = 0; i < object_count; i++) {
    Block *block = (Block *)objects[i];
    if (block->header.kind != PINNED || (const char *)host < (char *)block->host)
      continue;
    size_t offset = (const char *)host - (char *)block->host;
    if (offset <= block->bytes && bytes <= block->bytes - offset)
      return 1;
  }
  return 0;
}

/* ---- every call begins here ---- */

static int is_sticky(Code code) { return code == 702 || (code >= 714 && code <= 719) || code == 700; }

static Code enter(const char *name, int needs_context) {
  size_t i = 0;
  while (i < MAX_FUNCTIONS - 1 && functions[i].name && strcmp(functions[i].name, name))
    i++;
  functions[i].name = name;
  functions[i].calls++;
  count.calls++;
  Context *context = &contexts[generation % 2];
  if (fault.left > 0 && (!strcmp(fault.name, "*") || !strcmp(fault.name, name)) &&
      --fault.left == 0) {
    fault.hit = name;
    if (is_sticky(fault.code))
      context->sticky = fault.code;
    return fault.code;
  }
  if (!initialized)
    return NOT_INITIALIZED;
  if (!needs_context)
    return 0;
  if (current == NULL)
    return INVALID_CONTEXT;
  if (current_generation != generation || context->retained == 0)
    return CONTEXT_IS_DESTROYED;
  return context->sticky;
}

#define ENTER(needs_context)                                                                       \
  pthread_mutex_lock(&lock);                                                                       \
  Code code = enter(__func__, needs_context)
#define LEAVE                                                                                      \
  pthread_mutex_unlock(&lock);                                                                     \
  return code

/* ---- streams ---- */

static Code append(Operations *operations, Operation operation) {
  if (operations->count == operations->capacity) {
    size_t capacity = operations->capacity ? 2 * operations->capacity : 16;
    Operation *items = realloc(operations->items, capacity * sizeof *items);
    if (items == NULL)
      return OUT_OF_MEMORY;
    operations->items = items;
    operations->capacity = capacity;
  }
  operations->items[operations->count++] = operation;
  return 0;
}

static Code run(Stream *stream, uint64_t position);

static Code perform(Operation operation) {
  if (operation.kind == KERNEL) {
    count.kernels++;
    return operation.kernel(operation.id) ? LAUNCH_FAILED : 0;
  }
  if (operation.kind == WAIT)
    return living(operation.event, EVENT) && living(operation.event->stream, STREAM)
               ? run(operation.event->stream, operation.position)
               : 0;
  char *device = fake_memory(operation.device, operation.bytes);
  if (device == NULL)
    return ILLEGAL_ADDRESS;
  if (operation.kind == SET) {
    memset(device, operation.value, operation.bytes);
    return 0;
  }
  count.copies++;
  if (!is_pinned(operation.host, operation.bytes))
    count.pageable++;
  if (operation.kind == TO_DEVICE)
    memcpy(device, operation.host, operation.bytes);
  else
    memcpy(operation.host, device, operation.bytes);
  return 0;
}

/* Do what was put on a stream, up to a position; the first error stays with the context. */
static Code run(Stream *stream, uint64_t position) {
  Context *context = &contexts[generation % 2];
  while (stream->done < position && stream->queue.count && !context->sticky) {
    Operation operation = stream->queue.items[0];
    memmove(stream->queue.items, stream->queue.items + 1,
            --stream->queue.count * sizeof operation);
    stream->done++;
    context->sticky = perform(operation);
  }
  return context->sticky;
}

static Code enqueue(Stream *stream, Operation operation) {
  if (stream->capturing)
    return append(&stream->captured, operation);
  stream->enqueued++;
  return append(&stream->queue, operation);
}

static int is_capturing(void) {
  for (size_t i = 0; i < object_count; i++)
    if (objects[i]->kind == STREAM && ((Stream *)objects[i])->capturing)
      return 1;
  return 0;
}

/* What waits or allocates is not allowed while a stream captures, and spoils the graph. */
static Code not_while_capturing(void) {
  Code code = 0;
  for (size_t i = 0; i < object_count; i++)
    if (objects[i]->kind == STREAM && ((Stream *)objects[i])->capturing) {
      ((Stream *)objects[i])->broken = 1;
      code = CAPTURE_UNSUPPORTED;
    }
  return code;
}

/* What a kernel launch is: the callback runs when the stream comes to it, error if not 0. */
EXPORT Code fake_enqueue_kernel(void *handle, Kernel kernel, uint64_t id) {
  ENTER(1);
  Stream *stream = living(handle, STREAM);
  if (!code)
    code = stream ? enqueue(stream, (Operation){.kind = KERNEL, .kernel = kernel, .id = id})
                  : INVALID_HANDLE;
  LEAVE;
}

EXPORT int fake_is_capturing(void *handle) {
  pthread_mutex_lock(&lock);
  Stream *stream = living(handle, STREAM);
  int answer = stream != NULL && stream->capturing;
  pthread_mutex_unlock(&lock);
  return answer;
}

EXPORT void fake_break_capture(void *handle) {
  pthread_mutex_lock(&lock);
  Stream *stream = living(handle, STREAM);
  if (stream)
    stream->broken = 1;
  pthread_mutex_unlock(&lock);
}

/* ---- the driver ---- */

EXPORT Code cuInit(unsigned flags) {
  ENTER(0);
  if (code == NOT_INITIALIZED)
    code = flags ? INVALID_VALUE : machine.init ? (Code)machine.init : machine.count ? 0 : NO_DEVICE;
  if (!code)
    initialized = 1;
  LEAVE;
}

EXPORT Code cuDriverGetVersion(int *version) {
  ENTER(0);
  if (code == NOT_INITIALIZED)
    code = 0;
  if (!code)
    *version = (int)machine.driver;
  LEAVE;
}

EXPORT Code cuDeviceGetCount(int *number) {
  ENTER(0);
  if (!code)
    *number = (int)machine.count;
  LEAVE;
}

EXPORT Code cuDeviceGet(int *device, int ordinal) {
  ENTER(0);
  if (!code && (ordinal < 0 || ordinal >= machine.count))
    code = INVALID_DEVICE;
  if (!code)
    *device = ordinal;
  LEAVE;
}

EXPORT Code cuDeviceGetName(char *name, int length, int device) {
  ENTER(0);
  if (!code && device)
    code = INVALID_DEVICE;
  if (!code)
    snprintf(name, length, "%s", machine.name);
  LEAVE;
}

EXPORT Code cuDeviceTotalMem_v2(size_t *bytes, int device) {
  ENTER(0);
  if (!code && device)
    code = INVALID_DEVICE;
  if (!code)
    *bytes = machine.memory;
  LEAVE;
}

EXPORT Code cuDeviceGetAttribute(int *value, int attribute, int device) {
  ENTER(0);
  if (!code && device)
    code = INVALID_DEVICE;
  if (!code)
    *value = attribute == 75 ? (int)machine.major
             : attribute == 76 ? (int)machine.minor
             : attribute == 18 ? (int)machine.integrated
             : attribute == 16 ? 26 /* multiprocessors */
                               : 1;
  LEAVE;
}

EXPORT Code cuDevicePrimaryCtxRetain(void **context, int device) {
  ENTER(0);
  if (!code && device)
    code = INVALID_DEVICE;
  if (!code) {
    contexts[generation % 2].retained++;
    *context = &contexts[generation % 2];
  }
  LEAVE;
}

/* What frees may report a failure of something else, and has freed all the same. */
EXPORT Code cuDevicePrimaryCtxRelease_v2(int device) {
  ENTER(0);
  Context *context = &contexts[generation % 2];
  if (device || context->retained == 0)
    code = code ? code : INVALID_CONTEXT;
  else if (--context->retained == 0) {
    destroy_all();
    generation++;
    memset(&contexts[generation % 2], 0, sizeof *context);
  }
  LEAVE;
}

EXPORT Code cuCtxSetCurrent(void *context) {
  ENTER(0);
  if (!code && context && context != &contexts[generation % 2])
    code = INVALID_CONTEXT;
  if (!code) {
    current = context;
    current_generation = generation;
  }
  LEAVE;
}

EXPORT Code cuCtxGetCurrent(void **context) {
  ENTER(0);
  if (!code)
    *context = current;
  LEAVE;
}

EXPORT Code cuCtxSynchronize(void) {
  ENTER(1);
  if (!code)
    code = not_while_capturing();
  for (size_t i = 0; !code && i < object_count; i++)
    if (objects[i]->kind == STREAM)
      code = run((Stream *)objects[i], ((Stream *)objects[i])->enqueued);
  LEAVE;
}

EXPORT Code cuCtxGetStreamPriorityRange(int *least, int *greatest) {
  ENTER(1);
  if (!code) {
    *least = 0;
    *greatest = -5;
  }
  LEAVE;
}

EXPORT Code cuMemGetInfo_v2(size_t *free_bytes, size_t *total) {
  ENTER(1);
  if (!code) {
    long long left = machine.memory - machine.used - count.device_bytes;
    *free_bytes = left > 0 ? left : 0;
    *total = machine.memory;
  }
  LEAVE;
}

static Code allocate(Kind kind, size_t bytes, int mapped, Block **made) {
  long long used = machine.used + count.device_bytes + (machine.integrated ? count.pinned_bytes : 0);
  if (bytes == 0)
    return INVALID_VALUE;
  if (kind == DEVICE && (long long)bytes > machine.memory - used)
    return OUT_OF_MEMORY;
  Block *block = create(kind, sizeof *block);
  if (block == NULL)
    return OUT_OF_MEMORY;
  if (posix_memalign(&block->host, PAGE, bytes)) {
    destroy(block);
    return OUT_OF_MEMORY;
  }
  memset(block->host, 0xab, bytes); /* nobody may take what he did not write for zeros */
  block->bytes = bytes;
  *(kind == DEVICE ? &count.device_bytes : &count.pinned_bytes) += bytes;
  if (kind == DEVICE || mapped) {
    block->device = next_address;
    next_address += (bytes / PAGE + 2) * PAGE;
  }
  *made = block;
  return 0;
}

EXPORT Code cuMemAlloc_v2(Address *address, size_t bytes) {
  ENTER(1);
  Block *block = NULL;
  if (!code)
    code = is_capturing() ? not_while_capturing() : allocate(DEVICE, bytes, 0, &block);
  if (!code)
    *address = block->device;
  LEAVE;
}

static Code release(Kind kind, Address device, const void *host, Code code) {
  for (size_t i = 0; i < object_count; i++) {
    Block *block = (Block *)objects[i];
    if (block->header.kind == kind && (kind == DEVICE ? block->device == device
                                                      : block->host == host)) {
      destroy(block);
      return code;
    }
  }
  return code ? code : INVALID_VALUE;
}

EXPORT Code cuMemFree_v2(Address address) {
  ENTER(1);
  code = code == INVALID_CONTEXT ? code : release(DEVICE, address, NULL, code);
  LEAVE;
}

EXPORT Code cuMemHostAlloc(void **host, size_t bytes, unsigned flags) {
  ENTER(1);
  Block *block = NULL;
  if (!code)
    code = is_capturing() ? not_while_capturing() : allocate(PINNED, bytes, flags & 2, &block);
  if (!code)
    *host = block->host;
  LEAVE;
}

EXPORT Code cuMemFreeHost(void *host) {
  ENTER(1);
  code = code == INVALID_CONTEXT ? code : release(PINNED, 0, host, code);
  LEAVE;
}

EXPORT Code cuMemHostGetDevicePointer_v2(Address *address, void *host, unsigned flags) {
  ENTER(1);
  Block *found = NULL;
  for (size_t i = 0; i < object_count; i++)
    if (objects[i]->kind == PINNED && ((Block *)objects[i])->host == host)
      found = (Block *)objects[i];
  if (!code && (flags || found == NULL || found->device == 0))
    code = INVALID_VALUE;
  if (!code)
    *address = found->device;
  LEAVE;
}

static Code copy(OperationKind kind, Address device, void *host, size_t bytes, void *handle) {
  Stream *stream = living(handle, STREAM);
  return stream ? enqueue(stream, (Operation){.kind = kind, .host = host, .device = device,
                                              .bytes = bytes})
                : INVALID_HANDLE;
}

EXPORT Code cuMemcpyHtoDAsync_v2(Address device, const void *host, size_t bytes, void *stream) {
  ENTER(1);
  if (!code)
    code = copy(TO_DEVICE, device, (void *)host, bytes, stream);
  LEAVE;
}

EXPORT Code cuMemcpyDtoHAsync_v2(void *host, Address device, size_t bytes, void *stream) {
  ENTER(1);
  if (!code)
    code = copy(TO_HOST, device, host, bytes, stream);
  LEAVE;
}

EXPORT Code cuMemsetD8Async(Address device, unsigned char value, size_t bytes, void *handle) {
  ENTER(1);
  Stream *stream = living(handle, STREAM);
  if (!code)
    code = stream == NULL ? INVALID_HANDLE
                          : enqueue(stream, (Operation){.kind = SET, .device = device,
                                                        .bytes = bytes, .value = value});
  LEAVE;
}

EXPORT Code cuStreamCreateWithPriority(void **handle, unsigned flags, int priority) {
  ENTER(1);
  if (!code && (flags > 1 || priority > 0 || priority < -5))
    code = INVALID_VALUE;
  Stream *stream = code ? NULL : create(STREAM, sizeof *stream);
  if (!code && stream == NULL)
    code = OUT_OF_MEMORY;
  if (!code) {
    stream->priority = priority;
    *handle = stream;
  }
  LEAVE;
}

EXPORT Code cuStreamDestroy_v2(void *handle) {
  ENTER(1);
  Stream *stream = living(handle, STREAM);
  if (stream && code != INVALID_CONTEXT)
    destroy(stream);
  else
    code = code ? code : INVALID_HANDLE;
  LEAVE;
}

EXPORT Code cuStreamSynchronize(void *handle) {
  ENTER(1);
  Stream *stream = living(handle, STREAM);
  if (!code)
    code = stream == NULL ? INVALID_HANDLE : not_while_capturing();
  if (!code)
    code = run(stream, stream->enqueued);
  LEAVE;
}

EXPORT Code cuStreamWaitEvent(void *handle, void *event_handle, unsigned flags) {
  ENTER(1);
  Stream *stream = living(handle, STREAM);
  Event *event = living(event_handle, EVENT);
  if (!code && (stream == NULL || event == NULL))
    code = INVALID_HANDLE;
  if (!code && flags)
    code = INVALID_VALUE;
  if (!code)
    code = enqueue(stream, (Operation){.kind = WAIT, .event = event, .position = event->position});
  LEAVE;
}

EXPORT Code cuEventCreate(void **handle, unsigned flags) {
  ENTER(1);
  if (!code && flags > 3)
    code = INVALID_VALUE;
  Event *event = code ? NULL : create(EVENT, sizeof *event);
  if (!code && event == NULL)
    code = OUT_OF_MEMORY;
  if (!code)
    *handle = event;
  LEAVE;
}

EXPORT Code cuEventDestroy_v2(void *handle) {
  ENTER(1);
  Event *event = living(handle, EVENT);
  if (event && code != INVALID_CONTEXT)
    destroy(event);
  else
    code = code ? code : INVALID_HANDLE;
  LEAVE;
}

EXPORT Code cuEventRecord(void *handle, void *stream_handle) {
  ENTER(1);
  Event *event = living(handle, EVENT);
  Stream *stream = living(stream_handle, STREAM);
  if (!code && (event == NULL || stream == NULL))
    code = INVALID_HANDLE;
  if (!code && stream->capturing)
    code = not_while_capturing();
  if (!code) {
    event->stream = stream;
    event->position = stream->enqueued;
    event->looks = 0;
  }
  LEAVE;
}

static Code settle(Event *event) {
  Stream *stream = event == NULL ? NULL : living(event->stream, STREAM);
  if (event == NULL)
    return INVALID_HANDLE;
  return stream ? run(stream, event->position) : 0;
}

EXPORT Code cuEventSynchronize(void *handle) {
  ENTER(1);
  if (!code)
    code = not_while_capturing();
  if (!code)
    code = settle(living(handle, EVENT));
  LEAVE;
}

/* Not ready for as many looks as the patience says, and then done. */
EXPORT Code cuEventQuery(void *handle) {
  ENTER(1);
  Event *event = living(handle, EVENT);
  if (!code && event && living(event->stream, STREAM) && event->stream->done < event->position &&
      event->looks++ < machine.patience)
    code = NOT_READY;
  if (!code)
    code = settle(event);
  LEAVE;
}

EXPORT Code cuEventElapsedTime(float *milliseconds, void *first, void *second) {
  ENTER(1);
  if (!code && (!living(first, EVENT) || !living(second, EVENT)))
    code = INVALID_HANDLE;
  if (!code)
    *milliseconds = 1.0f;
  LEAVE;
}

EXPORT Code cuStreamBeginCapture_v2(void *handle, int mode) {
  ENTER(1);
  Stream *stream = living(handle, STREAM);
  if (!code)
    code = stream == NULL || stream->capturing ? INVALID_HANDLE : mode > 2 ? INVALID_VALUE : 0;
  if (!code) {
    stream->capturing = 1;
    stream->broken = 0;
    stream->captured.count = 0;
    count.captures++;
  }
  LEAVE;
}

EXPORT Code cuStreamEndCapture(void *handle, void **graph_handle) {
  ENTER(1);
  Stream *stream = living(handle, STREAM);
  if (stream == NULL || !stream->capturing) {
    code = code ? code : INVALID_HANDLE;
    LEAVE;
  }
  stream->capturing = 0;
  *graph_handle = NULL;
  if (!code && stream->broken)
    code = CAPTURE_INVALIDATED;
  Graph *graph = code ? NULL : create(GRAPH, sizeof *graph);
  if (!code && graph == NULL)
    code = OUT_OF_MEMORY;
  if (!code) {
    graph->operations = stream->captured;
    stream->captured = (Operations){0};
    *graph_handle = graph;
  }
  LEAVE;
}

EXPORT Code cuGraphInstantiateWithFlags(void **handle, void *graph_handle, unsigned long long flags) {
  ENTER(1);
  Graph *graph = living(graph_handle, GRAPH);
  if (!code)
    code = graph == NULL ? INVALID_HANDLE : flags ? INVALID_VALUE : 0;
  Graph *exec = code ? NULL : create(EXEC, sizeof *exec);
  if (!code && exec == NULL)
    code = OUT_OF_MEMORY;
  for (size_t i = 0; !code && i < graph->operations.count; i++)
    code = append(&exec->operations, graph->operations.items[i]);
  if (!code)
    *handle = exec;
  LEAVE;
}

EXPORT Code cuGraphLaunch(void *handle, void *stream_handle) {
  ENTER(1);
  Graph *exec = living(handle, EXEC);
  Stream *stream = living(stream_handle, STREAM);
  if (!code && (exec == NULL || stream == NULL))
    code = INVALID_HANDLE;
  for (size_t i = 0; !code && i < exec->operations.count; i++)
    code = enqueue(stream, exec->operations.items[i]);
  if (!code)
    count.launches++;
  LEAVE;
}

EXPORT Code cuGraphExecDestroy(void *handle) {
  ENTER(1);
  Graph *exec = living(handle, EXEC);
  if (exec && code != INVALID_CONTEXT)
    destroy(exec);
  else
    code = code ? code : INVALID_HANDLE;
  LEAVE;
}

EXPORT Code cuGraphDestroy(void *handle) {
  ENTER(1);
  Graph *graph = living(handle, GRAPH);
  if (graph && code != INVALID_CONTEXT)
    destroy(graph);
  else
    code = code ? code : INVALID_HANDLE;
  LEAVE;
}

static int find_error(Code code) {
  for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
    if (errors[i].code == code)
      return (int)i;
  return -1;
}

EXPORT Code cuGetErrorName(Code error, const char **name) {
  int found = find_error(error);
  *name = found < 0 ? NULL : errors[found].name;
  return found < 0 ? INVALID_VALUE : 0;
}

EXPORT Code cuGetErrorString(Code error, const char **text) {
  int found = find_error(error);
  *text = found < 0 ? NULL : errors[found].text;
  return found < 0 ? INVALID_VALUE : 0;
}
