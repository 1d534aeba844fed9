#pragma once

#include <cstdint>
#include <functional>

#include "core/shape.h"
#include "model/graph/graph.h"
#include "model/zoo/graph_builder.h"

namespace lockstep {

/// The model of a program that brings its own. Called once per command, on every rank, when the data is
/// known: `sample` is the shape of one sample, `outputs` the number of classes or of target columns, `loss`
/// what the config asks for and GraphBuilder::finish() wants. Must return the same graph on every rank: it
/// may depend on nothing else.
using GraphFunction = std::function<Graph(const Shape& sample, std::int64_t outputs, LossKind loss)>;

}  // namespace lockstep
