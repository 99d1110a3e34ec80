#!/bin/sh
# Makes configure from configure.ac; for a checkout, not for a release's tar file.
set -e
cd "$(dirname "$0")"
exec autoreconf --install "$@"
