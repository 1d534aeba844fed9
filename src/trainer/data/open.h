#pragma once

#include <memory>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "core/shape.h"
#include "data/dataset.h"
#include "data/readers/data_info.h"
#include "data/readers/data_notes.h"
#include "trainer/config/config.h"
#include "trainer/data/content.h"

namespace lockstep {

/// Which splits a command uses.
struct DataNeeds {
  bool train = true;
  bool validation = true;
  bool test = true;
};

struct DataSets {
  std::shared_ptr<const Dataset> train;       ///< null unless asked for
  std::shared_ptr<const Dataset> validation;  ///< null unless asked for and configured
  std::shared_ptr<const Dataset> test;        ///< null unless asked for and configured
  DataInfo info;
  std::vector<DataContent> contents;  ///< of every file that was read, the training file first
  DataNotes notes;                    ///< what was taken as what
  bool fitted = false;                ///< info.normalizer is known, and the values of all sets fit to it
};

/// When open_datasets() learns the normalisation and compares all values with it.
enum class Fit { now, later };

/// "1x28x28" or "784": FEATURES or CHANNELSxHEIGHTxWIDTH, as data.shape is written. ConfigError otherwise.
Shape parse_sample_shape(const std::string& text);

/// Opens what the config names and checks all of it before anything starts: combinations of keys
/// (ConfigError); files, shapes, labels within the classes, finite values (InputError). Reads the seed from
/// config.run.seed. Every rank calls it, without communication, and gets the same; or all ranks throw the
/// same.
///
/// Without `stored` the training file is always read and decides sample shape, classes (data.classes, else
/// the largest label in the training file + 1), class names and normalisation (fitted on the training split).
/// With `stored`, from an earlier run, these are taken as they are and the files are held against them; the
/// training file is then read only for splits that come from it, and must hold as many samples as it did.
///
/// With Fit::later, fit_datasets() has to follow: it reads every value, which one rank does for all.
DataSets open_datasets(const Config& config, const DataNeeds& needs = {}, const DataInfo* stored = nullptr,
                       Fit fit = Fit::now);

/// (all) Rank 0 learns the normalisation from sets.train, unless it is stored, and holds the values of all
/// sets against it; the others get it from there. `stored`: as it was given to open_datasets(). InputError
/// for values that do not fit, on all ranks.
void fit_datasets(Communicator& comm, const Config& config, DataSets& sets, bool stored);

struct InputSamples {
  std::shared_ptr<const Dataset> samples;
  std::vector<DataContent> contents;  ///< what their file held
  DataNotes notes;                    ///< what was taken as what
};

/// Samples without answers, for prediction: an IDX file of inputs, or a CSV file with the training file's
/// columns, the label columns optional. Held against `info` as above. `text`: the content of a CSV file that
/// was read already; `path` then is its name in messages alone.
InputSamples open_inputs(const Config& config, const DataInfo& info, const std::string& path,
                         const CsvText* text = nullptr);

}  // namespace lockstep
