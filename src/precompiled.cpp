// Nothing: the target of this file owns the precompiled headers of the libraries
// (cmake/LockstepPrecompiled.cmake).
