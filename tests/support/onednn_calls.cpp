// Linked into a program that counts what it takes from malloc: what oneDNN takes in small blocks for a call
// does not count. oneDNN makes three to eight objects of 32 to 120 bytes in each dnnl_primitive_execute (the
// nodes of its argument map, a scratchpad registrar), frees them before it returns, and offers no way to
// leave that out.

#include <dlfcn.h>

#include "support/malloc_count.h"

// The program's own definition comes before that of the shared library, to which it passes the call on. Its
// types are those of dnnl.h, of which only the sizes count here.
extern "C" int dnnl_primitive_execute(const void* primitive, void* stream, int count, const void* arguments) {
  using Execute = int (*)(const void*, void*, int, const void*);
  static const auto execute = reinterpret_cast<Execute>(dlsym(RTLD_NEXT, "dnnl_primitive_execute"));
  const lockstep::test::UncountedSmallBlocks uncounted;
  return execute(primitive, stream, count, arguments);
}
