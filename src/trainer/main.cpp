#include "trainer/cli/application.h"

int main(int argc, char** argv) {
  return lockstep::run_application(argc, argv);
}
