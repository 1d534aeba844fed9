#pragma once

#include <cstddef>

namespace lockstep::test {

/// How often this process has taken memory from the C library so far, in all threads: malloc, calloc, realloc
/// and the aligned forms, and with them operator new; and calls of mmap. Meaningless where
/// malloc_is_counted() is false.
std::size_t malloc_count();

/// From now on the stacks of the first few that are counted are kept, for write_callers().
void watch_callers();

/// Ends that and writes the stacks, a line per frame, to `fd`; nothing where none was counted. One thread.
void write_callers(int fd);

/// While one lives, blocks of up to 512 bytes that this thread takes with malloc do not count, the first 64
/// of them: for calls of a library that needs them and frees them at once. Aligned blocks and mmap do count.
class UncountedSmallBlocks {
 public:
  UncountedSmallBlocks() noexcept;
  ~UncountedSmallBlocks();
  UncountedSmallBlocks(const UncountedSmallBlocks&) = delete;
  UncountedSmallBlocks& operator=(const UncountedSmallBlocks&) = delete;
};

/// False under the sanitizers, which have their own malloc.
bool malloc_is_counted();

}  // namespace lockstep::test
