#pragma once

#include <functional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "core/range.h"
#include "model/files/safetensors.h"
#include "model/plan/executor.h"
#include "optim/optimizer.h"

namespace lockstep {

/// A tensor in plain row-major form, owned.
struct PlainTensor {
  std::string name;
  Shape shape;
  std::vector<float> data;
};

/// For writers of files: views of `tensors`, which must outlive them.
std::vector<TensorView> views_of(const std::vector<PlainTensor>& tensors);

/// The parameters and running statistics of flat `parameters`, in plain form. No communication.
std::vector<PlainTensor> export_model(const Executor& executor, std::span<const float> parameters);

/// (all) The ranges of the flat layout of which each rank holds the optimizer state, by rank.
std::vector<std::vector<Range>> gather_shards(Communicator& comm, const Optimizer& optimizer);

/// (all) The optimizer state of all shards in plain form, as "optimizer.<state>.<parameter>", on rank 0;
/// empty elsewhere.
std::vector<PlainTensor> gather_optimizer_state(Communicator& comm, const Executor& executor,
                                                const Optimizer& optimizer);

/// Reads one tensor in plain form into `out`; called on rank 0 only; may throw InputError.
using TensorReader = std::function<void(const std::string& name, const Shape& shape, std::span<float> out)>;

/// (all) Rank 0 reads every parameter and statistic, every rank gets them in `parameters`. Throws alike on
/// every rank.
void load_model(Communicator& comm, const Executor& executor, const TensorReader& read,
                std::span<float> parameters);

/// (all) The same for the optimizer state, each rank keeping its shard.
void load_optimizer_state(Communicator& comm, const Executor& executor, const TensorReader& read,
                          Optimizer& optimizer);

/// Initial weights and statistics of `graph`, from the seed alone: equal on every rank without communication.
void initialise_model(const Graph& graph, const Executor& executor, std::uint64_t seed,
                      std::span<float> parameters);

}  // namespace lockstep
