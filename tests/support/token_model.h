#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/numerics/philox.h"
#include "data/epoch_order.h"
#include "data/memory_dataset.h"
#include "model/ops/activation/relu.h"
#include "model/ops/linear/dense.h"
#include "model/ops/loss/cross_entropy.h"
#include "model/ops/sequence/embedding.h"
#include "model/ops/sequence/sequence_mean.h"
#include "model/ops/sequence/unfold.h"
#include "model/zoo/graph_builder.h"

// A small model of sequences, for tests: 1 to 60 tokens in four length classes.

namespace lockstep::test {

inline const std::vector<std::int64_t> token_classes = {8, 16, 32, 64};
inline constexpr std::int64_t token_vocabulary = 50;
inline constexpr std::int64_t token_labels = 5;

/// Embedding, dense, a convolution over time, the mean over the sequence, dense.
inline Graph token_graph(std::int64_t positions, double dropout = 0) {
  GraphBuilder b("tokens");
  const ValueId tokens = b.field({"tokens", DType::i32, Shape{positions}, true});
  ValueId x = b.append(EmbeddingAttrs{token_vocabulary, 16}, {tokens}, "embedding");
  x = b.relu(b.dense(x, {.out_features = 64}, "dense"));
  if (dropout > 0) x = b.dropout(x, {dropout});
  x = b.append(UnfoldAttrs{3, 1}, {x}, "unfold");
  x = b.relu(b.dense(x, {.out_features = 24}, "conv"));
  x = b.append(SequenceMeanAttrs{}, {x}, "mean");
  return b.finish(b.dense(x, {.out_features = token_labels}, "out"), CrossEntropyAttrs{});
}

/// The family: one graph for each length class.
inline std::vector<Graph> token_graphs(double dropout = 0) {
  std::vector<Graph> graphs;
  for (const std::int64_t positions : token_classes) graphs.push_back(token_graph(positions, dropout));
  return graphs;
}

inline std::shared_ptr<const MemoryDataset> token_data(std::int64_t samples) {
  MemoryColumn tokens, label;
  tokens.field = {"tokens", DType::i32, Shape{token_classes.back()}, true};
  label.field = {"label", DType::i32, Shape{}};
  tokens.begins = {0};
  const PhiloxKey key = random_key(3, Purpose::synthetic, 0, 0);
  for (std::int64_t i = 0; i < samples; ++i) {
    const auto word = [&](std::uint64_t e) {
      return random_block(key, static_cast<std::uint64_t>(i), e).v[0];
    };
    const std::int64_t length = 1 + word(0) % 60;
    for (std::int64_t t = 0; t < length; ++t)
      tokens.integers.push_back(
          static_cast<std::int32_t>(word(static_cast<std::uint64_t>(t) + 1) % token_vocabulary));
    tokens.begins.push_back(static_cast<std::int64_t>(tokens.integers.size()));
    label.integers.push_back(tokens.integers.back() % token_labels);
  }
  return std::make_shared<MemoryDataset>(samples, std::vector<MemoryColumn>{tokens, label}, "made-up tokens",
                                         "tokens");
}

inline EpochOrder token_order(const Dataset& data, std::int64_t global_batch, std::int64_t slices,
                              std::uint64_t seed) {
  return {LengthClasses::of(data, "tokens", token_classes, 4 * global_batch), global_batch, slices, seed};
}

}  // namespace lockstep::test
