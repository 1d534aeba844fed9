#include "trainer/guard/fault_search.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <functional>
#include <limits>
#include <optional>
#include <tuple>

#include "core/error.h"
#include "core/numerics/finite.h"
#include "core/wire.h"
#include "model/graph/op_table.h"
#include "trainer/step/flat_position.h"

namespace lockstep {
namespace {

/// What a rank may spend on narrowing its slices down to samples, while the others wait; then what is left is
/// named as it is.
constexpr int narrowing_slices = 128;  // computed again, for one slice
constexpr std::chrono::seconds narrowing_time{15};

class Budget {
 public:
  void next_slice() { left_ = narrowing_slices; }
  void spend() { --left_; }
  bool spent() const { return left_ < 2 || std::chrono::steady_clock::now() > until_; }

 private:
  int left_ = 0;
  std::chrono::steady_clock::time_point until_ = std::chrono::steady_clock::now() + narrowing_time;
};

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
  explicit RowSelection(const Batch& from) : from_(from) {}
  const Batch& select(std::span<const std::int64_t> rows) {
    const auto all = static_cast<std::size_t>(from_.rows);
    samples_.assign(all, -1);
    for (std::size_t i = 0; i < rows.size(); ++i)
      samples_[i] = from_.samples[static_cast<std::size_t>(rows[i])];
    data_.resize(from_.fields.size());
    lengths_.resize(from_.fields.size());
    fields_.assign(from_.fields.begin(), from_.fields.end());
    for (std::size_t f = 0; f < fields_.size(); ++f) {
      const FieldRows& field = from_.fields[f];
      const std::size_t row = field.data.size() / all;
      data_[f].assign(field.data.size(), std::byte{0});
      lengths_[f].assign(field.lengths.size(), 0);
      for (std::size_t i = 0; i < rows.size(); ++i) {
        const auto r = static_cast<std::size_t>(rows[i]);
        std::copy_n(field.data.data() + r * row, row, data_[f].data() + i * row);
        if (!lengths_[f].empty()) lengths_[f][i] = field.lengths[r];
      }
      fields_[f].data = data_[f];
      fields_[f].lengths = lengths_[f];
    }
    batch_ = from_;
    batch_.valid = static_cast<std::int64_t>(rows.size());
    batch_.samples = samples_;
    batch_.fields = fields_;
    return batch_;
  }

 private:
  Batch from_;
  std::vector<std::int64_t> samples_;
  std::vector<std::vector<std::byte>> data_;  // by field
  std::vector<std::vector<std::int32_t>> lengths_;
  std::vector<FieldRows> fields_;
  Batch batch_;
};

using Verdict = std::function<bool(const Batch&)>;

/// The rows of `rows`, which are known to be bad together, that are bad by themselves; where none is, all.
void narrow(RowSelection& selection, std::span<const std::int64_t> rows, const Verdict& bad, Budget& budget,
            std::vector<std::int64_t>& out) {
  if (rows.size() == 1 || budget.spent()) {
    out.insert(out.end(), rows.begin(), rows.end());
    return;
  }
  const std::span<const std::int64_t> halves[] = {rows.first(rows.size() / 2), rows.subspan(rows.size() / 2)};
  bool any = false;
  for (const auto& half : halves) {
    budget.spend();
    if (!bad(selection.select(half))) continue;
    any = true;
    narrow(selection, half, bad, budget, out);
  }
  if (!any) out.insert(out.end(), rows.begin(), rows.end());
}

std::vector<std::int64_t> bad_samples(const FaultScene& scene, const Batch& batch, const Verdict& bad,
                                      Budget& budget) {
  std::vector<std::int64_t> rows(static_cast<std::size_t>(batch.valid));
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<std::int64_t>(i);
  std::vector<std::int64_t> found;
  if (scene.graph.mixes_rows()) {
    found = rows;
  } else {
    RowSelection selection(batch);
    budget.next_slice();
    narrow(selection, rows, bad, budget, found);
  }
  for (std::int64_t& row : found) row = batch.samples[static_cast<std::size_t>(row)];
  return found;
}

/// A slice that is bad by itself, as the rank that has computed it knows it.
struct BadSlice {
  std::int64_t slice = 0;
  std::vector<std::int64_t> samples;
  std::string op, found;                  ///< where it began, and what stands there
  std::string parameter, element, value;  ///< whose gradient is bad, and its element, or empty
  double loss = 0, norm = 0;              ///< of a spike: its mean loss, and the parameter's norm per sample
};

/// (all) Those of all ranks, in the order of slices, which is that of ranks.
std::vector<BadSlice> share(Communicator& comm, const std::vector<BadSlice>& mine) {
  WireWriter out;
  out.begin_list(mine.size());
  for (const BadSlice& b : mine)
    out.add(b.slice)
        .add(b.samples)
        .add(b.op)
        .add(b.found)
        .add(b.parameter)
        .add(b.element)
        .add(b.value)
        .add(b.loss)
        .add(b.norm);
  std::vector<BadSlice> all;
  for (const std::string& text : comm.all_gather_text(out.text())) {
    WireReader in(text);
    for (std::size_t left = in.get_list(); left > 0; --left) {
      BadSlice& b = all.emplace_back();
      b.slice = in.get<std::int64_t>();
      b.samples = in.get<std::vector<std::int64_t>>();
      for (std::string* field : {&b.op, &b.found, &b.parameter, &b.element, &b.value})
        *field = in.get<std::string>();
      b.loss = in.get<double>();
      b.norm = in.get<double>();
    }
    in.finish();
  }
  return all;
}

void collect(const std::vector<BadSlice>& findings, FaultReport& report) {
  for (const BadSlice& finding : findings) {
    report.slices.push_back(finding.slice);
    report.samples.insert(report.samples.end(), finding.samples.begin(), finding.samples.end());
  }
}

std::string place_text(const FaultScene& scene, const FaultReport& report) {
  return fmt::format("in {} {} with {} {}{}", report.slices.size() == 1 ? "slice" : "slices",
                     list_text(report.slices), report.samples.size() == 1 ? "sample" : "samples",
                     list_text(report.samples),
                     scene.graph.mixes_rows() ? " (all of the slice: batch norm mixes them)" : "");
}

/// The parameter whose gradient has the largest norm, and the norm.
std::pair<std::string, double> steepest(const Executor& executor, std::span<const float> gradient) {
  std::pair<std::string, double> most{"", -1};
  for (const FlatSegment& segment : executor.layout().segments) {
    if (!segment.is_trained()) continue;
    double sum = 0;  // padding within the storage is zero
    for (const float g : gradient.subspan(static_cast<std::size_t>(segment.storage.begin),
                                          static_cast<std::size_t>(segment.storage.size())))
      sum += static_cast<double>(g) * g;
    if (!(std::sqrt(sum) <= most.second)) most = {segment.name, std::sqrt(sum)};
  }
  return most;
}

/// The op that has a parameter: "dense2 (dense)".
std::string owner_text(const Graph& graph, const std::string& parameter, std::string& op) {
  for (std::size_t n = 0; n < graph.nodes.size(); ++n)
    for (const int p : graph.nodes[n].parameters)
      if (graph.parameters[static_cast<std::size_t>(p)].name == parameter) {
        op = graph.nodes[n].name;
        const int node = static_cast<int>(n);
        return op_text(graph, std::span(&node, 1));
      }
  op = "loss";
  return op;
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
      WireWriter().add(mine ? mine->parameter : "").add(mine ? mine->text() : "").text());
  std::string place = "the gradient";
  for (const FlatSegment& segment : scene.probe.executor().layout().segments) {
    for (const std::string& text : all) {
      WireReader found(text);
      if (found.get<std::string>() != segment.name) continue;
      report.parameter = segment.name;
      place = "the gradient of " + found.get<std::string>();
    }
    if (!report.parameter.empty()) break;
  }
  report.what = fmt::format(
      "{} is not finite once summed, but no slice computes such a value by itself when it is computed again: "
      "the sum overflowed, or a rank's memory or arithmetic failed for a moment",
      place);
}

/// (all)
bool any_rank_has(Communicator& comm, bool mine) {
  const std::uint8_t own = mine ? 1 : 0;
  std::vector<std::uint8_t> all(static_cast<std::size_t>(comm.size()));
  comm.all_gather(std::as_bytes(std::span(&own, 1)), std::as_writable_bytes(std::span(all)));
  return std::find(all.begin(), all.end(), 1) != all.end();
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
  const auto compute = [&](const Batch& batch, FirstNonfinite* first = nullptr) {
    const SliceResult result = probe.compute(batch, scene.parameters, scene.seed, scene.step, nullptr, first);
    if (first != nullptr) first->loss(result.loss);
    return !std::isfinite(result.loss) || !all_finite(probe.gradient());
  };
  std::vector<BadSlice> mine;
  Budget budget;
  for (const Batch& batch : scene.batches) {
    if (batch.valid == 0) continue;
    FirstNonfinite first(scene.graph);
    if (!compute(batch, &first)) continue;
    BadSlice& bad = mine.emplace_back();
    bad.slice = batch.slice;
    bad.op = first.op();
    bad.found = first.found();
    if (const auto position = find_element(probe.executor(), probe.gradient(), is_bad)) {
      bad.parameter = position->parameter;
      bad.element = position->text();
      bad.value = std::isnan(position->value) ? "not a number" : "infinite";
    }
    bad.samples = bad_samples(
        scene, batch, [&](const Batch& b) { return compute(b); }, budget);
  }
  FaultReport report;
  const std::vector<BadSlice> findings = share(scene.comm, mine);
  report.in_parameters = any_rank_has(scene.comm, !all_finite(scene.parameters));
  const char* in_parameters = "; the parameters themselves hold values that are not finite";
  if (findings.empty()) {
    name_total(scene, report);
    if (report.in_parameters) report.what += in_parameters;
    return report;
  }
  collect(findings, report);
  const BadSlice& first = findings.front();
  report.op = first.op;
  report.parameter = first.parameter;
  report.what = fmt::format("{} is the first that is not finite", first.found);
  if (!report.parameter.empty())
    report.what += fmt::format(", and the gradient of {} is {}", first.element, first.value);
  report.what += ", " + place_text(scene, report);
  if (report.in_parameters) report.what += in_parameters;
  return report;
}

FaultReport find_spike(const FaultScene& scene, double bound) {
  double loss = 0;
  const auto above = [&](const Batch& batch) {
    const SliceResult result = scene.probe.compute(batch, scene.parameters, scene.seed, scene.step);
    loss = result.loss / result.weight;
    return result.weight > 0 && loss > bound;
  };
  std::vector<BadSlice> mine;
  Budget budget;
  for (const Batch& batch : scene.batches) {
    if (batch.valid == 0 || !above(batch)) continue;
    BadSlice& bad = mine.emplace_back();
    bad.slice = batch.slice;
    bad.loss = std::min(loss, std::numeric_limits<double>::max());  // "inf" tells a reader less
    std::tie(bad.parameter, bad.norm) = steepest(scene.probe.executor(), scene.probe.gradient());
    bad.norm /= static_cast<double>(batch.valid);
    bad.samples = bad_samples(scene, batch, above, budget);
  }
  FaultReport report;
  const std::vector<BadSlice> findings = share(scene.comm, mine);
  collect(findings, report);
  if (findings.empty()) {
    report.op = "loss";
    report.what = "no slice reaches the bound when it is computed again";
    return report;
  }
  // Of the slices the one with the highest loss; of equal ones the first.
  const BadSlice& worst = *std::max_element(
      findings.begin(), findings.end(), [](const BadSlice& a, const BadSlice& b) { return a.loss < b.loss; });
  report.parameter = worst.parameter;
  const std::string owner = owner_text(scene.graph, report.parameter, report.op);
  report.what = fmt::format(
      "it comes from {}; slice {} has the highest loss, {:.6g}, and there the gradient of {}, of the op {}, "
      "has "
      "the largest norm, {:.6g} per sample",
      place_text(scene, report), worst.slice, worst.loss, report.parameter, owner, worst.norm);
  return report;
}

}  // namespace lockstep
