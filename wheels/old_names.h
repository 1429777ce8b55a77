/* Included before everything else in the module that links OpenSSL's archives in (setup.py, FASTLB_ARCHIVES), and in no other.

   What a distribution's archive calls is bound to the names of its own glibc, younger than the floor of wheels (glibc_floor.h does not reach into
   it). The linker is told to --wrap those functions: the archive's calls come here, and go on under the older names of the same code. */
#ifndef FASTLB_OLD_NAMES_H
#define FASTLB_OLD_NAMES_H

#if defined(__x86_64__)
#define FASTLB_OLDEST "GLIBC_2.2.5"
#define FASTLB_STAT_VERSION 1
#elif defined(__aarch64__)
#define FASTLB_OLDEST "GLIBC_2.17"
#define FASTLB_STAT_VERSION 0
#else
#error "wheels are built for x86_64 and aarch64"
#endif

#define FASTLB_OLD(type, name, parameters, arguments) \
    extern type fastlb_old_##name parameters; \
    __asm__(".symver fastlb_old_" #name "," #name "@" FASTLB_OLDEST); \
    type __wrap_##name parameters; \
    type __wrap_##name parameters { return fastlb_old_##name arguments; }

FASTLB_OLD(int, pthread_once, (int* control, void (*routine)(void)), (control, routine))
FASTLB_OLD(int, pthread_key_create, (unsigned* key, void (*destroy)(void*)), (key, destroy))
FASTLB_OLD(int, pthread_key_delete, (unsigned key), (key))
FASTLB_OLD(void*, pthread_getspecific, (unsigned key), (key))
FASTLB_OLD(int, pthread_setspecific, (unsigned key, const void* value), (key, value))
FASTLB_OLD(int, pthread_rwlock_init, (void* lock, const void* attributes), (lock, attributes))
FASTLB_OLD(int, pthread_rwlock_destroy, (void* lock), (lock))
FASTLB_OLD(int, pthread_rwlock_rdlock, (void* lock), (lock))
FASTLB_OLD(int, pthread_rwlock_wrlock, (void* lock), (lock))
FASTLB_OLD(int, pthread_rwlock_unlock, (void* lock), (lock))
FASTLB_OLD(void*, dlopen, (const char* file, int mode), (file, mode))
FASTLB_OLD(void*, dlsym, (void* handle, const char* name), (handle, name))
FASTLB_OLD(int, dladdr, (const void* address, void* info), (address, info))
FASTLB_OLD(int, dlclose, (void* handle), (handle))
FASTLB_OLD(char*, dlerror, (void), ())
FASTLB_OLD(int, __xstat, (int version, const char* path, void* result), (version, path, result))
FASTLB_OLD(int, __fxstat, (int version, int fd, void* result), (version, fd, result))

int __wrap_stat(const char* path, void* result);
int __wrap_stat(const char* path, void* result) { return fastlb_old___xstat(FASTLB_STAT_VERSION, path, result); }
int __wrap_fstat(int fd, void* result);
int __wrap_fstat(int fd, void* result) { return fastlb_old___fxstat(FASTLB_STAT_VERSION, fd, result); }

#endif
