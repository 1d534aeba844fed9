#pragma once

// What a C++ program with a model of its own needs: GraphBuilder to build it, run_application() to train and
// use it. examples/custom_model.cpp shows how.

#include "core/shape.h"
#include "model/graph/graph.h"
#include "model/zoo/graph_builder.h"
#include "trainer/cli/application.h"
