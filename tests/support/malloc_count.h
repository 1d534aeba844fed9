#pragma once

#include <cstddef>

namespace lockstep::test {

/// How often this process has taken memory from the C library so far, in all threads: malloc, calloc, realloc
/// and the aligned forms, and with them operator new; and calls of mmap. Meaningless where
/// malloc_is_counted() is false.
std::size_t malloc_count();

/// False under the sanitizers, which have their own malloc.
bool malloc_is_counted();

}  // namespace lockstep::test
