#include "trainer/fault_search.h"

#include <algorithm>
#include <cmath>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/error.h"
#include "core/finite.h"
#include "model/op_table.h"
#include "trainer/flat_position.h"

namespace lockstep {
namespace {

/// Slices computed again to narrow one slice down to samples: then what is left is named as it is.
constexpr int narrowing_budget = 128;

std::string op_text(const Graph& graph, std::span<const int> nodes) {
  std::string kinds;
  for (const int n : nodes) {
    if (!kinds.empty()) kinds += "+";
    kinds += op_entry(graph.nodes[static_cast<std::size_t>(n)].attrs).name;
  }
  return fmt::format("{} ({})", graph.nodes[static_cast<std::size_t>(nodes.front())].name, kinds);
}

/// Remembers the first op that computes something that is not finite: forward, else backward.
class FirstNonfinite final : public OpInspector {
 public:
  explicit FirstNonfinite(const Graph& graph) : graph_(graph) {}
  void forward(std::span<const int> nodes, std::span<const float> output) override {
    if (!found_.empty() || all_finite(output)) return;
    note(nodes, "the output");
    forward_ = true;
  }
  void backward(std::span<const int> nodes, std::span<const float> gradient,
                std::span<const std::span<const float>> diff_inputs) override {
    if (!found_.empty()) return;
    bool finite = all_finite(gradient);
    for (const auto& diff : diff_inputs) finite = finite && all_finite(diff);
    if (!finite) note(nodes, "the gradient");
  }
  /// After the slice: with the loss of the slice, which stands between forward and backward.
  void loss(double loss) {
    if (std::isfinite(loss) || forward_) return;
    op_ = "loss";
    found_ = "the loss";
  }
  const std::string& op() const { return op_; }
  /// "the output of conv1 (conv2d+relu)"
  const std::string& found() const { return found_; }

 private:
  void note(std::span<const int> nodes, const char* which) {
    op_ = graph_.nodes[static_cast<std::size_t>(nodes.front())].name;
    found_ = fmt::format("{} of {}", which, op_text(graph_, nodes));
  }
  const Graph& graph_;
  std::string op_, found_;
  bool forward_ = false;
};

/// Some rows of a slice, moved to its front; the rows behind them are empty.
class RowSelection {
 public:
  explicit RowSelection(const SliceBatch& from) : from_(from) {}
  const SliceBatch& select(std::span<const std::int64_t> rows) {
    const auto all = static_cast<std::size_t>(from_.rows);
    const std::size_t width = from_.input.size() / all, answers = from_.targets.size() / all;
    samples_.assign(all, -1);
    input_.assign(from_.input.size(), 0.0f);
    labels_.assign(from_.labels.size(), 0);
    targets_.assign(from_.targets.size(), 0.0f);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const auto r = static_cast<std::size_t>(rows[i]);
      samples_[i] = from_.samples[r];
      std::copy_n(from_.input.data() + r * width, width, input_.data() + i * width);
      if (!labels_.empty()) labels_[i] = from_.labels[r];
      std::copy_n(from_.targets.data() + r * answers, answers, targets_.data() + i * answers);
    }
    batch_ = {from_.slice, from_.rows, static_cast<std::int64_t>(rows.size()), samples_, input_,
              labels_,     targets_};
    return batch_;
  }

 private:
  SliceBatch from_;
  std::vector<std::int64_t> samples_;
  std::vector<float> input_;
  std::vector<std::int32_t> labels_;
  std::vector<float> targets_;
  SliceBatch batch_;
};

using Verdict = std::function<bool(const SliceBatch&)>;

/// The rows of `rows`, which are known to be bad together, that are bad by themselves; where none is, all.
void narrow(RowSelection& selection, std::span<const std::int64_t> rows, const Verdict& bad, int& budget,
            std::vector<std::int64_t>& out) {
  if (rows.size() == 1 || budget < 2) {
    out.insert(out.end(), rows.begin(), rows.end());
    return;
  }
  const std::span<const std::int64_t> halves[] = {rows.first(rows.size() / 2), rows.subspan(rows.size() / 2)};
  bool any = false;
  for (const auto& half : halves) {
    --budget;
    if (!bad(selection.select(half))) continue;
    any = true;
    narrow(selection, half, bad, budget, out);
  }
  if (!any) out.insert(out.end(), rows.begin(), rows.end());
}

std::vector<std::int64_t> bad_samples(const FaultScene& scene, const SliceBatch& batch, const Verdict& bad) {
  std::vector<std::int64_t> rows(static_cast<std::size_t>(batch.valid));
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<std::int64_t>(i);
  std::vector<std::int64_t> found;
  if (scene.graph.has_batch_norm()) {
    found = rows;
  } else {
    RowSelection selection(batch);
    int budget = narrowing_budget;
    narrow(selection, rows, bad, budget, found);
  }
  for (std::int64_t& row : found) row = batch.samples[static_cast<std::size_t>(row)];
  return found;
}

std::string dump(const nlohmann::json& json) {
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

/// Findings of all ranks, in the order of slices, which is that of ranks.
std::vector<nlohmann::json> share(Communicator& comm, const nlohmann::json& mine) {
  std::vector<nlohmann::json> all;
  for (const std::string& text : comm.all_gather_text(dump(mine)))
    for (nlohmann::json& finding : nlohmann::json::parse(text)) all.push_back(std::move(finding));
  return all;
}

void collect(const std::vector<nlohmann::json>& findings, FaultReport& report) {
  for (const nlohmann::json& finding : findings) {
    report.slices.push_back(finding["slice"]);
    for (const std::int64_t sample : finding["samples"]) report.samples.push_back(sample);
  }
}

std::string place_text(const FaultScene& scene, const FaultReport& report) {
  return fmt::format("in {} {} with {} {}{}", report.slices.size() == 1 ? "slice" : "slices",
                     list_text(report.slices), report.samples.size() == 1 ? "sample" : "samples",
                     list_text(report.samples),
                     scene.graph.has_batch_norm() ? " (all of the slice: batch norm mixes them)" : "");
}

bool is_bad(float v) {
  return !std::isfinite(v);
}

/// No slice is bad by itself: what the totals say. Each rank knows its own.
void name_total(const FaultScene& scene, FaultReport& report) {
  std::optional<FlatPosition> mine;
  std::vector<float> flat(static_cast<std::size_t>(scene.probe.executor().layout().elements));
  for (const TotalView& view : scene.totals)
    std::copy_n(view.data, view.range.size(), flat.begin() + view.range.begin);
  mine = find_element(scene.probe.executor(), flat, is_bad);
  const std::vector<std::string> all = scene.comm.all_gather_text(
      mine ? dump({{"parameter", mine->parameter}, {"text", mine->text()}}) : std::string());
  std::string place = "the gradient";
  for (const FlatSegment& segment : scene.probe.executor().layout().segments) {
    for (const std::string& text : all) {
      if (text.empty()) continue;
      const nlohmann::json found = nlohmann::json::parse(text);
      if (found["parameter"] != segment.name) continue;
      report.parameter = segment.name;
      place = "the gradient of " + found["text"].get<std::string>();
    }
    if (!report.parameter.empty()) break;
  }
  report.what = fmt::format(
      "{} is not finite once summed, but no slice computes such a value by itself when it is computed again: "
      "the sum overflowed, or a rank's memory or arithmetic failed for a moment",
      place);
}

}  // namespace

std::string list_text(std::span<const std::int64_t> values, std::size_t most) {
  const std::size_t shown = std::min(values.size(), most);
  std::string text = fmt::format("{}", fmt::join(values.first(shown), ", "));
  if (shown < values.size()) text += fmt::format(" and {} more", values.size() - shown);
  return text;
}

FaultReport find_nonfinite(const FaultScene& scene) {
  SliceProbe& probe = scene.probe;
  const auto compute = [&](const SliceBatch& batch, FirstNonfinite* first = nullptr) {
    const SliceResult result = probe.compute(batch, scene.parameters, scene.seed, scene.step, nullptr, first);
    if (first != nullptr) first->loss(result.loss);
    return !std::isfinite(result.loss) || !all_finite(probe.gradient());
  };
  nlohmann::json mine = nlohmann::json::array();
  for (const SliceBatch& batch : scene.batches) {
    if (batch.valid == 0) continue;
    FirstNonfinite first(scene.graph);
    if (!compute(batch, &first)) continue;
    const auto position = find_element(probe.executor(), probe.gradient(), is_bad);
    mine.push_back({{"slice", batch.slice},
                    {"op", first.op()},
                    {"found", first.found()},
                    {"parameter", position ? position->parameter : ""},
                    {"element", position ? position->text() : ""},
                    {"value", position ? (std::isnan(position->value) ? "not a number" : "infinite") : ""},
                    {"samples", bad_samples(scene, batch, [&](const SliceBatch& b) { return compute(b); })}});
  }
  FaultReport report;
  const std::vector<nlohmann::json> findings = share(scene.comm, mine);
  if (findings.empty()) {
    name_total(scene, report);
    return report;
  }
  collect(findings, report);
  const nlohmann::json& first = findings.front();
  report.op = first["op"];
  report.parameter = first["parameter"];
  report.what = fmt::format("{} is the first that is not finite", first["found"].get<std::string>());
  if (!report.parameter.empty())
    report.what += fmt::format(", and the gradient of {} is {}", first["element"].get<std::string>(),
                               first["value"].get<std::string>());
  report.what += ", " + place_text(scene, report);
  if (!all_finite(scene.parameters))
    report.what += "; the parameters themselves hold values that are not finite";
  return report;
}

FaultReport find_spike(const FaultScene& scene, double bound) {
  const auto above = [&](const SliceBatch& batch) {
    const SliceResult result = scene.probe.compute(batch, scene.parameters, scene.seed, scene.step);
    return result.weight > 0 && result.loss / result.weight > bound;
  };
  nlohmann::json mine = nlohmann::json::array();
  for (const SliceBatch& batch : scene.batches) {
    if (batch.valid == 0 || !above(batch)) continue;
    mine.push_back({{"slice", batch.slice}, {"samples", bad_samples(scene, batch, above)}});
  }
  FaultReport report;
  collect(share(scene.comm, mine), report);
  report.op = "loss";
  report.what = report.slices.empty() ? "no slice reaches the bound when it is computed again"
                                      : "it comes from " + place_text(scene, report);
  return report;
}

}  // namespace lockstep
