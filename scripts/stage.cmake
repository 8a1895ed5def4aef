# Copies the files of FROM (or those that match PATTERN, in FROM itself only) to TO, leaving alone what is the same
# already, so that cargo does not see fresh modification times for unchanged headers.
if(NOT IS_DIRECTORY "${FROM}")
  return()  # a type support that this ROS 2 was built without
endif()
if(PATTERN)
  file(GLOB files RELATIVE "${FROM}" "${FROM}/${PATTERN}")
else()
  file(GLOB_RECURSE files RELATIVE "${FROM}" "${FROM}/*")
endif()
foreach(file IN LISTS files)
  if(NOT PATTERN AND file MATCHES "\\.(o|c|cpp|cc|d)$")
    continue()
  endif()
  get_filename_component(folder "${TO}/${file}" DIRECTORY)
  file(MAKE_DIRECTORY "${folder}")
  execute_process(COMMAND ${CMAKE_COMMAND} -E copy_if_different "${FROM}/${file}" "${TO}/${file}"
    RESULT_VARIABLE result)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "could not copy ${FROM}/${file} to ${TO}/${file}")
  endif()
endforeach()
