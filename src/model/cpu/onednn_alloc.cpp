#include "model/cpu/onednn_alloc.h"

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>

namespace {

constexpr std::size_t pool_bytes = 8192;
constexpr std::size_t pool_count = 256;  // threads that ever compute at once; the others use malloc
constexpr std::size_t largest_block = 512;

/// One thread's blocks, handed out one after another; starts over whenever all have come back.
struct alignas(64) Pool {
  std::atomic<int> live{0};
  std::atomic<bool> owned{false};
  std::size_t used = 0;
  alignas(64) std::byte bytes[pool_bytes];
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
  if (size > largest_block) return nullptr;
  Pool* pool = own_pool();
  if (pool == nullptr) return nullptr;
  if (pool->live.load(std::memory_order_acquire) == 0) pool->used = 0;
  const std::size_t needed = (size + 15) / 16 * 16 + (size == 0 ? 16 : 0);
  if (pool->used + needed > pool_bytes) return nullptr;
  void* block = pool->bytes + pool->used;
  pool->used += needed;
  pool->live.fetch_add(1, std::memory_order_relaxed);
  return block;
}

/// True when the block came from a pool, to which it then has gone back.
bool give_back(void* block) noexcept {
  const auto address = reinterpret_cast<std::uintptr_t>(block);
  const auto begin = reinterpret_cast<std::uintptr_t>(pools.data());
  if (address < begin || address >= begin + sizeof(pools)) return false;
  pools[(address - begin) / sizeof(Pool)].live.fetch_sub(1, std::memory_order_release);
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
