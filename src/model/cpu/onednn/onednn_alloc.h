#pragma once

namespace lockstep::cpu {

/// While one lives, operator new of this thread takes small blocks from a pool instead of from malloc.
///
/// oneDNN 2.6 makes three to eight objects of 32 to 120 bytes with operator new in each
/// dnnl_primitive_execute (the nodes of its argument map, a scratchpad registrar) and frees them before it
/// returns. A steady training step must not take memory from the system, and the library offers no other way
/// in. So Lockstep replaces the global operator new by one that calls malloc, except inside such a scope. The
/// replacement is weak: a program that has its own keeps it, and loses only the pool.
///
/// A block may outlive the scope and may be freed by any thread; it only keeps its place in the pool. Blocks
/// that find no place come from malloc.
class SmallAllocations {
 public:
  SmallAllocations() noexcept;
  /// What the thread's first scope would do, which takes memory once.
  static void prepare_thread() noexcept;
  ~SmallAllocations();
  SmallAllocations(const SmallAllocations&) = delete;
  SmallAllocations& operator=(const SmallAllocations&) = delete;
};

}  // namespace lockstep::cpu
