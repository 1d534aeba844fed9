#pragma once

#include <thread>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

// The few instructions that C++ has no word for, in one place.

namespace lockstep {

/// Tells the processor that this thread is waiting in a loop: some 40 to 140 cycles.
inline void pause_instruction() noexcept {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ __volatile__("isb" ::: "memory");
#else
  std::this_thread::yield();
#endif
}

/// Sets the calling thread's floating-point mode to what IEEE 754 says: denormals are kept and rounding is to
/// the nearest. A library built with -ffast-math may have changed it when it was loaded, and new threads
/// inherit it.
inline void keep_denormals() noexcept {
#if defined(__x86_64__)
  constexpr unsigned flush_to_zero = 1u << 15, denormals_are_zero = 1u << 6, rounding = 3u << 13;
  const unsigned mode = _mm_getcsr();
  const unsigned wanted = mode & ~(flush_to_zero | denormals_are_zero | rounding);
  if (mode != wanted) _mm_setcsr(wanted);
#elif defined(__aarch64__)
  unsigned long mode = 0;
  __asm__ __volatile__("mrs %0, fpcr" : "=r"(mode));
  const unsigned long wanted = mode & ~(7ul << 22);  // FZ and RMode
  if (mode != wanted) __asm__ __volatile__("msr fpcr, %0" ::"r"(wanted));
#endif
}

}  // namespace lockstep
