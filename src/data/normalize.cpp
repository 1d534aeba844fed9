#include "data/normalize.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fmt/format.h>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/json_number.h"

namespace lockstep {

namespace {

const char* text_of(Normalizer::Kind kind) {
  switch (kind) {
    case Normalizer::Kind::none:
      return "none";
    case Normalizer::Kind::unit:
      return "unit";
    case Normalizer::Kind::standard:
      return "standard";
  }
  throw InternalError("a kind of normalisation without a name");
}

/// What differs by rounding alone becomes values far below 1, also where it is large.
double deviation_of_rounding(float low, float high) {
  return std::max({1.0, std::abs(static_cast<double>(low)), std::abs(static_cast<double>(high))});
}

/// Mean and population deviation per group of bytes over `divisor`. The sums are integers, so exact.
void fit_bytes(const FieldColumn& column, std::int64_t samples, std::size_t groups, double divisor,
               std::vector<double>& mean, std::vector<double>& deviation) {
  const std::size_t per_group = column.width() / groups;
  std::vector<std::uint64_t> sum(groups);
  std::vector<std::uint64_t> squares(groups);
  std::vector<std::byte> buffer(column.width());
  for (std::int64_t i = 0; i < samples; ++i) {
    const std::uint8_t* at = column.bytes(i, buffer).data();
    for (std::size_t g = 0; g < groups; ++g) {
      // 32 bits hold the squares of 65,536 bytes: the inner loop then runs on vectors.
      for (std::size_t begin = 0; begin < per_group; begin += 65536) {
        const std::size_t end = std::min(per_group, begin + 65536);
        std::uint32_t s = 0;
        std::uint32_t q = 0;
        for (std::size_t k = begin; k < end; ++k) {
          const std::uint32_t v = at[g * per_group + k];
          s += v;
          q += v * v;
        }
        sum[g] += s;
        squares[g] += q;
      }
    }
  }
  const double count = static_cast<double>(samples) * static_cast<double>(per_group);
  for (std::size_t g = 0; g < groups; ++g) {
    __extension__ using Wide = unsigned __int128;
    const auto n = static_cast<Wide>(samples) * per_group;
    const Wide spread = n * squares[g] - static_cast<Wide>(sum[g]) * sum[g];  // n^2 times the variance
    mean[g] = static_cast<double>(sum[g]) / count / divisor;
    deviation[g] = spread == 0 ? 1.0 : std::sqrt(static_cast<double>(spread)) / count / divisor;
  }
}

/// The same for rows of floats, `per_group` after each other in every group: two passes, since a difference
/// of large sums would lose a small deviation. `row(i, out)` gives row i of `rows`.
template <class Row>
void fit_columns(std::int64_t rows, std::size_t groups, std::size_t per_group, Row row,
                 std::vector<double>& mean, std::vector<double>& deviation) {
  const std::size_t elements = groups * per_group;
  const double count = static_cast<double>(rows) * static_cast<double>(per_group);
  std::vector<float> values(elements);
  std::vector<float> low(groups, std::numeric_limits<float>::infinity());
  std::vector<float> high(groups, -std::numeric_limits<float>::infinity());
  for (std::int64_t i = 0; i < rows; ++i) {
    row(i, std::span<float>(values));
    for (std::size_t k = 0; k < elements; ++k) {
      const std::size_t g = k / per_group;
      mean[g] += static_cast<double>(values[k]);
      low[g] = std::min(low[g], values[k]);
      high[g] = std::max(high[g], values[k]);
    }
  }
  for (std::size_t g = 0; g < groups; ++g) {
    // The mean of equal numbers is that number, which rounding in the sum would miss.
    mean[g] = low[g] == high[g] ? static_cast<double>(low[g]) : mean[g] / count;
  }
  std::vector<double> squares(groups);
  for (std::int64_t i = 0; i < rows; ++i) {
    row(i, std::span<float>(values));
    for (std::size_t k = 0; k < elements; ++k) {
      const std::size_t g = k / per_group;
      const double d = static_cast<double>(values[k]) - mean[g];
      squares[g] += d * d;
    }
  }
  for (std::size_t g = 0; g < groups; ++g) {
    deviation[g] =
        is_rounding(low[g], high[g]) ? deviation_of_rounding(low[g], high[g]) : std::sqrt(squares[g] / count);
  }
}

std::size_t groups_of(const Shape& shape) {
  require(shape.rank() >= 1, "samples without a dimension cannot be normalised");
  return static_cast<std::size_t>(shape[0]);
}

}  // namespace

Normalizer Normalizer::fit(const std::string& method, const Dataset& train, bool synthetic) {
  if (train.size() == 0) throw InputError("the training split is empty: nothing can be fitted to it");
  Normalizer n;
  if (method == "none" || (method == "auto" && synthetic)) return n;
  const FieldColumn column(train, input_field);
  const bool bytes = column.is_bytes();
  if (method == "unit") {
    n.kind_ = Kind::unit;
    n.divisor_ = 255;
    return n;
  }
  if (method != "standard" && method != "auto") {
    throw ConfigError(
        fmt::format("data.normalize = {} is not known: give none, auto, unit or standard", method));
  }
  n.kind_ = Kind::standard;
  n.divisor_ = bytes ? 255 : 1;
  const std::size_t groups = groups_of(column.field().shape);
  n.mean_.assign(groups, 0.0);
  n.deviation_.assign(groups, 0.0);
  if (bytes) {
    fit_bytes(column, train.size(), groups, n.divisor_, n.mean_, n.deviation_);
  } else {
    fit_columns(
        train.size(), groups, column.width() / groups,
        [&column](std::int64_t i, std::span<float> out) { column.read(i, out); }, n.mean_, n.deviation_);
  }
  return n;
}

void Normalizer::fit_targets(const Dataset& train) {
  require(train.size() > 0, "targets are scaled that are not there");
  const FieldColumn column(train, target_field);
  const std::size_t width = column.width();
  target_mean_.assign(width, 0.0);
  target_deviation_.assign(width, 0.0);
  fit_columns(
      train.size(), width, 1, [&column](std::int64_t i, std::span<float> out) { column.read(i, out); },
      target_mean_, target_deviation_);
}

std::string Normalizer::to_json() const {
  nlohmann::json j;
  j["kind"] = text_of(kind_);
  j["divisor"] = divisor_;
  if (kind_ == Kind::standard) {
    j["mean"] = mean_;
    j["deviation"] = deviation_;
  }
  if (scales_targets()) {
    j["target_mean"] = target_mean_;
    j["target_deviation"] = target_deviation_;
  }
  return j.dump();
}

Normalizer Normalizer::from_json(const std::string& text, const std::string& origin) {
  Normalizer n;
  try {
    const nlohmann::json j = nlohmann::json::parse(text);
    const auto kind = j.at("kind").get<std::string>();
    if (kind == "unit") {
      n.kind_ = Kind::unit;
    } else if (kind == "standard") {
      n.kind_ = Kind::standard;
    } else if (kind != "none") {
      throw InputError(fmt::format("{}: normalisation '{}' is not known", origin, kind));
    }
    n.divisor_ = json_real(j, "divisor");
    if (n.kind_ == Kind::standard) {
      n.mean_ = json_reals(j, "mean");
      n.deviation_ = json_reals(j, "deviation");
    }
    if (j.contains("target_mean") || j.contains("target_deviation")) {
      n.target_mean_ = j.at("target_mean").get<std::vector<double>>();
      n.target_deviation_ = j.at("target_deviation").get<std::vector<double>>();
      if (n.target_mean_.empty()) throw InputError(fmt::format("{}: no target is scaled", origin));
    }
  } catch (const nlohmann::json::exception& e) {
    throw InputError(fmt::format("{}: the stored normalisation cannot be read: {}", origin, json_fault(e)));
  } catch (const JsonNumberError& e) {
    throw InputError(fmt::format("{}: the stored normalisation cannot be right: {}", origin, e.what()));
  }
  const auto fit_together = [](const std::vector<double>& mean, const std::vector<double>& deviation) {
    return mean.size() == deviation.size() &&
           std::all_of(mean.begin(), mean.end(), [](double v) { return std::isfinite(v); }) &&
           std::all_of(deviation.begin(), deviation.end(),
                       [](double v) { return std::isfinite(v) && v > 0; });
  };
  const bool sound = std::isfinite(n.divisor_) && n.divisor_ > 0 && fit_together(n.mean_, n.deviation_) &&
                     (n.kind_ == Kind::standard) == !n.mean_.empty() &&
                     fit_together(n.target_mean_, n.target_deviation_);
  if (!sound) {
    throw InputError(fmt::format(
        "{}: the stored normalisation holds values that cannot be: a divisor or deviation not above "
        "0, or lists of different length",
        origin));
  }
  return n;
}

std::string Normalizer::describe() const {
  if (kind_ == Kind::none) return "none";
  if (kind_ == Kind::unit) return "unit: divided by 255";
  std::string text = fmt::format("standard, {} group{}", mean_.size(), mean_.size() == 1 ? "" : "s");
  if (divisor_ != 1) text += fmt::format(", of values over {}", divisor_);
  for (std::size_t g = 0; g < std::min<std::size_t>(mean_.size(), 3); ++g) {
    text += fmt::format("{} mean {:.4g}, deviation {:.4g}", g == 0 ? ":" : ";", mean_[g], deviation_[g]);
  }
  return text + (mean_.size() > 3 ? "; …" : "");
}

float Normalizer::scaled_target(double target, std::size_t column) const {
  return static_cast<float>((target - target_mean_[column]) / target_deviation_[column]);
}

double Normalizer::in_units_of_data(float output, std::size_t column) const {
  const auto value = static_cast<double>(output);
  return scales_targets() ? value * target_deviation_[column] + target_mean_[column] : value;
}

void Normalizer::check(const Shape& sample_shape, std::int64_t target_width) const {
  if (scales_targets() && target_width != 0 &&
      target_mean_.size() != static_cast<std::size_t>(target_width)) {
    throw InputError(fmt::format("there are {} targets a sample, but the scaling was fitted to {}",
                                 target_width, target_mean_.size()));
  }
  if (kind_ != Kind::standard || groups_of(sample_shape) == mean_.size()) return;
  throw InputError(fmt::format("samples are {}, but the normalisation was fitted on {} {}",
                               sample_shape.text(), mean_.size(),
                               sample_shape.rank() == 1 ? "features" : "channels"));
}

float Normalizer::normalized(double value, std::size_t group) const {
  const double scaled = value / divisor_;
  if (kind_ != Kind::standard) return static_cast<float>(scaled);
  return static_cast<float>((scaled - mean_[group]) / deviation_[group]);
}

bool is_rounding(float low, float high) {
  if (!(low < high)) return low == high;
  const double range = static_cast<double>(high) - static_cast<double>(low);
  const double size = std::max(std::abs(static_cast<double>(low)), std::abs(static_cast<double>(high)));
  return range <= 4 * static_cast<double>(std::numeric_limits<float>::epsilon()) * size ||
         range < static_cast<double>(std::numeric_limits<float>::min());
}

}  // namespace lockstep
