#include "trainer/config/command_table.h"

#include <algorithm>
#include <array>

#include "trainer/config/config_table.h"

namespace lockstep {
namespace {

/// Where samples lie, which part of them is looked at, and who loads them.
bool is_file_of_data(const std::string& key) {
  constexpr std::array keys = {
      "data.train",   "data.train_labels", "data.validation",    "data.validation_labels",
      "data.test",    "data.test_labels",  "data.test_fraction", "data.validation_fraction",
      "data.workers", "data.read"};
  return std::find(keys.begin(), keys.end(), key) != keys.end();
}

/// What a file is like, which may be another one than the training file.
bool is_form_of_file(const std::string& key) {
  return key == "data.header" || key == "data.delimiter" || key == "data.layout";
}

std::vector<CommandEntry> make_commands() {
  using Keys = CommandEntry::Keys;
  const CommandOption run_option{"run", "DIR", "the run directory of a finished or stopped training",
                                 {},    {},    true};
  const CommandOption weights_option{"weights", "last|best", "which weights", {"last", "best"}, "last"};
  std::vector<CommandEntry> commands;
  commands.push_back(
      {"train",
       "trains a model",
       {{"config", "FILE", "config file: sections of key = value lines"},
        {"overwrite", "", "replaces the run that the run directory holds"},
        {"resume", "", "goes on from the newest whole checkpoint of the run directory"},
        {"dry-run", "", "prints the model, the memory and the bytes per step, and stops"},
        {"print-run-dir", "", "prints the run directory that these words mean, and stops; without MPI"},
        {"allow-numeric-change", "", "resumes, or mixes hosts, although results may differ in the last bits"},
        {"allow-slices-change", "",
         "resumes with another train.slices, and so with other bits from there on"},
        {"allow-data-change", "", "resumes although the data are not those that the run was trained on"},
        {"take-over", "",
         "takes the run from a job that may still be at it, which then ends at its next save"}},
       "",
       Keys::all});
  commands.push_back(
      {"evaluate",
       "metrics of a trained model, every sample counted once",
       {run_option,
        weights_option,
        {"split", "test|validation|train", "which data", {"test", "validation", "train"}, "test"},
        {"output", "FILE", "writes all metrics there too, as JSON"}},
       "",
       Keys::evaluation});
  commands.push_back(
      {"predict",
       "predictions as JSON lines or CSV, in the order of the input",
       {run_option,
        {"input",
         "FILE",
         "samples in the run's data format; labels may be missing; - is standard input (CSV)",
         {},
         {},
         true},
        {"output", "FILE",
         "where the rows go: CSV where it ends in .csv, else JSON lines (default: standard output)"},
        {"id", "COLUMN,...", "columns of a CSV input, by name or number, to carry along into each row"},
        weights_option},
       "",
       Keys::prediction});
  commands.push_back({"export",
                      "writes the weights for other programs",
                      {run_option,
                       {"format", "safetensors", "format of the file", {"safetensors"}, "safetensors"},
                       {"output", "FILE", "the file to write", {}, {}, true},
                       weights_option}});
  commands.push_back({"inspect", "shows what a model, checkpoint, run or data file holds", {}, "PATH"});
  commands.push_back(
      {"digest",
       "prints \"<64 hex digits>  PATH\": equal digests mean equal bits; of several paths also "
       "\"equal\" or, with exit code 1, \"different\"",
       {{"state", "", "covers the optimizer state and the data position too"}},
       "PATH",
       Keys::none,
       true});
  commands.push_back({"runs",
                      "a table of the runs in and below folders: state, steps, best metric, and the keys in "
                      "which their configs differ",
                      {{"output", "FILE", "writes the table there instead: .csv, else JSON"}},
                      "DIR",
                      Keys::none,
                      true});
  commands.push_back({"doctor",
                      "shows ranks, hosts, devices and libraries: what works and what does not",
                      {{"config", "FILE", "also looks whether it is valid, and the same on all ranks"}},
                      "",
                      Keys::device});
  return commands;
}

}  // namespace

const std::vector<CommandEntry>& command_table() {
  static const std::vector<CommandEntry> commands = make_commands();
  return commands;
}

const CommandEntry* find_command(const std::string& name) {
  for (const CommandEntry& c : command_table()) {
    if (c.name == name) return &c;
  }
  return nullptr;
}

bool takes_key(const CommandEntry& command, const std::string& key) {
  const std::string section = section_of(key);
  switch (command.keys) {
    case CommandEntry::Keys::none:
      return false;
    case CommandEntry::Keys::device:
      return section == "device";
    // How and on what to compute, not what was trained: which columns are read belongs to the run.
    case CommandEntry::Keys::prediction:
      return section == "device" || key == "data.workers" || key == "train.eval_batch" ||
             is_form_of_file(key);
    case CommandEntry::Keys::evaluation:
      return section == "device" || key == "train.eval_batch" || is_file_of_data(key) || is_form_of_file(key);
    case CommandEntry::Keys::all:
      return true;
  }
  return false;
}

}  // namespace lockstep
