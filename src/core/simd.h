#pragma once

/// Before a function of plain loops: compiles it once per CPU instruction set and picks one when the program
/// starts. The loops may use only operations that IEEE 754 rounds correctly (+ - * / sqrt, conversions,
/// comparisons) in an order that the source fixes, so that the bits are the same for every instruction set;
/// the build's -ffp-contract=off keeps the compiler from fusing them.
///
/// Empty under the address and thread sanitizers: their instrumentation of the selecting function runs before
/// they have started.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && \
    !defined(__SANITIZE_THREAD__)
#define LOCKSTEP_TARGET_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define LOCKSTEP_TARGET_CLONES
#endif
