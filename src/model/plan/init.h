#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "model/graph/graph.h"

namespace lockstep {

/// (all) Draws the initial values of parameter `parameter` (an index into Graph::parameters) into `out`,
/// plain row-major, shape.elements() long: see InitKind. Every element is a function of (seed, parameter,
/// element), so neither the order of the calls nor the rank count can matter.
///
/// Element e reads the words of random_block(random_key(seed, init, 0, parameter), 0, block), in float64:
///   uniform (-b, b): (2 u - 1) b with u = uniform_open(word e mod 4 of block e / 4);
///   normal (0, s^2): s sqrt(-2 ln u) cos(2 pi v) with u, v = uniform_open of words 0, 1 (e even) or 2, 3 (e
///   odd) of block e / 2 (Box and Muller 1958, the cosine half).
/// The result is rounded to float32 once. Uniform draws use only + - * / and sqrt, which IEEE 754 defines to
/// the bit; ln and cos come from the C library, whose version is part of the numeric fingerprint.
///
/// kaiming_uniform takes the gain sqrt(2) where the layer's output goes straight, or through one batch norm,
/// into a ReLU, and 1 elsewhere.
///
/// Throws InternalError when `parameter` or the size of `out` is wrong.
void initialise_plain(const Graph& graph, std::size_t parameter, std::uint64_t seed, std::span<float> out);

}  // namespace lockstep
