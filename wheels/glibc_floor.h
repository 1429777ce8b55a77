/* Included before everything else in the modules of a wheel (wheels/build.py), and in no other build.

   glibc 2.34 moved the functions of libpthread and libdl into libc under new version names; a module linked there by default asks
   for the new names and does not load on anything older. Both names are the same code, so the old ones are asked for. A name that a module
   does not use adds nothing to it. When the build says that a symbol needs a newer glibc, this is the place, if there is an older
   name (`objdump -T /lib/x86_64-linux-gnu/libc.so.6 | grep NAME` shows all). */
#ifndef FASTLB_GLIBC_FLOOR_H
#define FASTLB_GLIBC_FLOOR_H

#if defined(__x86_64__)
#define FASTLB_FIRST "GLIBC_2.2.5"
#define FASTLB_SETNAME "GLIBC_2.12"
#elif defined(__aarch64__)
#define FASTLB_FIRST "GLIBC_2.17"
#define FASTLB_SETNAME "GLIBC_2.17"
#else
#error "wheels are built for x86_64 and aarch64"
#endif

#define FASTLB_ASK(name, version) __asm__(".symver " #name "," #name "@" version)

FASTLB_ASK(pthread_create, FASTLB_FIRST);
FASTLB_ASK(pthread_join, FASTLB_FIRST);
FASTLB_ASK(pthread_detach, FASTLB_FIRST);
FASTLB_ASK(pthread_kill, FASTLB_FIRST);
FASTLB_ASK(pthread_once, FASTLB_FIRST);
FASTLB_ASK(pthread_sigmask, FASTLB_FIRST);
FASTLB_ASK(pthread_setname_np, FASTLB_SETNAME);
FASTLB_ASK(pthread_attr_setstacksize, FASTLB_FIRST);
FASTLB_ASK(pthread_mutex_trylock, FASTLB_FIRST);
FASTLB_ASK(sem_init, FASTLB_FIRST);
FASTLB_ASK(sem_destroy, FASTLB_FIRST);
FASTLB_ASK(sem_post, FASTLB_FIRST);
FASTLB_ASK(sem_wait, FASTLB_FIRST);
FASTLB_ASK(sem_timedwait, FASTLB_FIRST);
FASTLB_ASK(dlsym, FASTLB_FIRST);

#endif
