/* Preloaded where /proc/modules is missing, so that the real library can be tried there: whoever opens it gets
 * /dev/null instead, which says that no module is loaded. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *replaced(const char *path) {
  return path && strcmp(path, "/proc/modules") == 0 ? "/dev/null" : path;
}

#define OPEN(name)                                                \
  int name(const char *path, int flags, ...) {                    \
    va_list arguments;                                            \
    va_start(arguments, flags);                                   \
    int mode = va_arg(arguments, int);                            \
    va_end(arguments);                                            \
    int (*next)(const char *, int, ...) = dlsym(RTLD_NEXT, #name); \
    return next(replaced(path), flags, mode);                     \
  }
OPEN(open)
OPEN(open64)

#define FOPEN(name)                                                  \
  FILE *name(const char *path, const char *mode) {                   \
    FILE *(*next)(const char *, const char *) = dlsym(RTLD_NEXT, #name); \
    return next(replaced(path), mode);                               \
  }
FOPEN(fopen)
FOPEN(fopen64)
