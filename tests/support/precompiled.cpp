// The targets of this file own the precompiled headers of the tests (cmake/LockstepPrecompiled.cmake).
int main() {
  return 0;
}
