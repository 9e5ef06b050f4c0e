# SPDX-License-Identifier: Apache-2.0
# The engine `exec` wants the static library alone: static linking is on, and a shared one would not link.
set(BUILD_SHARED_LIBS OFF CACHE BOOL "")
