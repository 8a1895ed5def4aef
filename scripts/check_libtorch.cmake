# Whether LIBTORCH of the environment is a libtorch that torch-sys can be compiled with. torch-sys itself compares the
# version only where there is a file build-version, which a PyTorch has not, and another version would end in C++ errors
# after minutes. The other ways in which torch-sys finds a libtorch are left to it.
set(how "A PyTorch has one: python3 -m pip install --target ~/torch torch==2.11.0, then export LIBTORCH=~/torch/torch")
if("$ENV{LIBTORCH_LIB}" STREQUAL "" AND NOT DEFINED ENV{LIBTORCH_USE_PYTORCH}
    AND NOT EXISTS "$ENV{LIBTORCH}/lib/libtorch_cpu.so"
    AND (DEFINED ENV{LIBTORCH} OR NOT EXISTS "/usr/lib/libtorch.so"))
  message(FATAL_ERROR "LIBTORCH is '$ENV{LIBTORCH}', expected the folder of a libtorch 2.11, with lib/libtorch_cpu.so in "
    "it. ${how}")
endif()
if(NOT DEFINED ENV{LIBTORCH_BYPASS_VERSION_CHECK})
  foreach(header include/torch/headeronly/version.h include/torch/csrc/api/include/torch/version.h)
    if(NOT "$ENV{LIBTORCH}" STREQUAL "" AND EXISTS "$ENV{LIBTORCH}/${header}")
      file(STRINGS "$ENV{LIBTORCH}/${header}" found REGEX "define TORCH_VERSION_(MAJOR|MINOR) +[0-9]+")
      string(REGEX REPLACE "[^0-9;]" "" found "${found}")
      string(REPLACE ";" "." found "${found}")
      if(found AND NOT found STREQUAL "2.11")
        message(FATAL_ERROR "LIBTORCH is '$ENV{LIBTORCH}', a libtorch ${found}: expected 2.11, whose functions tch binds. "
          "${how}. To try ${found} all the same, export LIBTORCH_BYPASS_VERSION_CHECK=1")
      endif()
      break()
    endif()
  endforeach()
endif()
