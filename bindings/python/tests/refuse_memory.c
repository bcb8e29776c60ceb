/* Preloaded into a process of the tests, stands before the allocator of glibc and refuses one request: see test_fuzz_hostile.py.
   cc -shared -fPIC -o refuse_memory.so refuse_memory.c -ldl */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stddef.h>
#include <sys/mman.h>

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

/* Which request from now on is refused, 0 for none; how many there were; and the fewest bytes of one that counts. */
static long refused, seen;
static size_t least;

void refuse_memory(long number, size_t bytes) {
    least = bytes;
    __atomic_store_n(&seen, 0, __ATOMIC_SEQ_CST);
    __atomic_store_n(&refused, number, __ATOMIC_SEQ_CST);
}

long memory_requests(void) {
    return __atomic_load_n(&seen, __ATOMIC_SEQ_CST);
}

static int is_refused(size_t bytes) {
    long number = __atomic_load_n(&refused, __ATOMIC_SEQ_CST);
    if (number == 0 || bytes < least)
        return 0;
    return __atomic_add_fetch(&seen, 1, __ATOMIC_SEQ_CST) == number;
}

static void *none(void) {
    errno = ENOMEM;
    return NULL;
}

void *malloc(size_t bytes) {
    return is_refused(bytes) ? none() : __libc_malloc(bytes);
}

void *calloc(size_t count, size_t bytes) {
    size_t all;
    if (__builtin_mul_overflow(count, bytes, &all) || is_refused(all))
        return none();
    return __libc_calloc(count, bytes);
}

void *realloc(void *block, size_t bytes) {
    return is_refused(bytes) ? none() : __libc_realloc(block, bytes);
}

void *memalign(size_t alignment, size_t bytes) {
    return is_refused(bytes) ? none() : __libc_memalign(alignment, bytes);
}

void *aligned_alloc(size_t alignment, size_t bytes) {
    return memalign(alignment, bytes);
}

int posix_memalign(void **block, size_t alignment, size_t bytes) {
    void *got = memalign(alignment, bytes);
    if (got == NULL)
        return ENOMEM;
    *block = got;
    return 0;
}

void *mmap(void *place, size_t bytes, int protection, int flags, int file, off_t offset) {
    static void *(*real)(void *, size_t, int, int, int, off_t);
    if (real == NULL)
        real = (void *(*)(void *, size_t, int, int, int, off_t))dlsym(RTLD_NEXT, "mmap");
    if (is_refused(bytes)) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    return real(place, bytes, protection, flags, file, offset);
}
