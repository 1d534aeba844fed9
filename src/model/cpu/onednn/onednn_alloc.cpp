#include "model/cpu/onednn/onednn_alloc.h"

#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>

namespace {

constexpr std::size_t pool_count = 256;  // threads that ever compute at once; the others use malloc
constexpr std::size_t small_block = 128;
constexpr std::size_t large_block = 512;

/// Up to 64 places of one size. Only the owner of the pool takes one; any thread gives it back.
struct Places {
  std::atomic<std::uint64_t> taken{0};  ///< a bit for each
  int take(int count) noexcept {
    const int free = std::countr_one(taken.load(std::memory_order_acquire));
    if (free >= count) return -1;
    taken.fetch_or(std::uint64_t{1} << free, std::memory_order_relaxed);
    return free;
  }
  void give_back(std::size_t place) noexcept {
    taken.fetch_and(~(std::uint64_t{1} << place), std::memory_order_release);
  }
};

/// One thread's blocks. Each has a place of its own, so that one that stays takes nothing from
/// the others.
struct alignas(64) Pool {
  static constexpr int small_count = 64, large_count = 16;
  Places small, large;
  std::atomic<bool> owned{false};
  alignas(64) std::byte small_blocks[small_count][small_block];
  std::byte large_blocks[large_count][large_block];
};

// Static storage without a constructor: operator delete must know a pool's block by its address alone, from
// before main() until after the last destructor.
std::array<Pool, pool_count> pools;

/// Gives the pool to another thread when this one ends.
struct PoolHandle {
  Pool* pool = nullptr;
  bool asked = false;
  ~PoolHandle() {
    if (pool != nullptr) pool->owned.store(false, std::memory_order_release);
    pool = nullptr;  // destructors of other thread-local objects may still allocate
  }
};
thread_local PoolHandle handle;
thread_local int depth = 0;

Pool* own_pool() noexcept {
  if (!handle.asked) {
    handle.asked = true;
    for (Pool& pool : pools) {
      bool free = false;
      if (pool.owned.compare_exchange_strong(free, true, std::memory_order_acquire)) {
        handle.pool = &pool;
        break;
      }
    }
  }
  return handle.pool;
}

void* take_small(std::size_t size) noexcept {
  if (size > large_block) return nullptr;
  Pool* pool = own_pool();
  if (pool == nullptr) return nullptr;
  if (size <= small_block) {
    const int place = pool->small.take(Pool::small_count);
    if (place >= 0) return pool->small_blocks[place];
  }
  const int place = pool->large.take(Pool::large_count);
  return place >= 0 ? pool->large_blocks[place] : nullptr;
}

/// True when the block came from a pool, to which it then has gone back.
bool give_back(void* block) noexcept {
  const auto address = reinterpret_cast<std::uintptr_t>(block);
  const auto begin = reinterpret_cast<std::uintptr_t>(pools.data());
  if (address < begin || address >= begin + sizeof(pools)) return false;
  Pool& pool = pools[(address - begin) / sizeof(Pool)];
  const auto large = reinterpret_cast<std::uintptr_t>(pool.large_blocks);
  if (address >= large)
    pool.large.give_back((address - large) / large_block);
  else
    pool.small.give_back((address - reinterpret_cast<std::uintptr_t>(pool.small_blocks)) / small_block);
  return true;
}

void* take(std::size_t size) noexcept {
  if (depth > 0)
    if (void* block = take_small(size)) return block;
  return std::malloc(size == 0 ? 1 : size);
}

void* take_or_throw(std::size_t size) {
  for (;;) {
    if (void* block = take(size)) return block;
    const std::new_handler handler = std::get_new_handler();
    if (handler == nullptr) throw std::bad_alloc();
    handler();
  }
}

void release(void* block) noexcept {
  if (block != nullptr && !give_back(block)) std::free(block);
}

}  // namespace

namespace lockstep::cpu {

SmallAllocations::SmallAllocations() noexcept {
  ++depth;
}
SmallAllocations::~SmallAllocations() {
  --depth;
}
void SmallAllocations::prepare_thread() noexcept {
  own_pool();
}

}  // namespace lockstep::cpu

// The forms with an alignment are not replaced; the standard library's array and nothrow forms call these,
// but are replaced too, so that each block is freed by the side that gave it.
[[gnu::weak]] void* operator new(std::size_t size) {
  return take_or_throw(size);
}
[[gnu::weak]] void* operator new[](std::size_t size) {
  return take_or_throw(size);
}
[[gnu::weak]] void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  return take(size);
}
[[gnu::weak]] void* operator new[](std::size_t size, const std::nothrow_t&) noexcept {
  return take(size);
}
[[gnu::weak]] void operator delete(void* block) noexcept {
  release(block);
}
[[gnu::weak]] void operator delete[](void* block) noexcept {
  release(block);
}
[[gnu::weak]] void operator delete(void* block, std::size_t) noexcept {
  release(block);
}
[[gnu::weak]] void operator delete[](void* block, std::size_t) noexcept {
  release(block);
}
[[gnu::weak]] void operator delete(void* block, const std::nothrow_t&) noexcept {
  release(block);
}
[[gnu::weak]] void operator delete[](void* block, const std::nothrow_t&) noexcept {
  release(block);
}
