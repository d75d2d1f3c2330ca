#!/usr/bin/env bash
# The top of a report as a picture for the README; needs Chromium (and CJK fonts for Japanese).
#   scripts/picture.sh REPORT.html PICTURE.png [HEIGHT [SCALE]]
set -euo pipefail
report=$(realpath "$1") picture=$(realpath "$2")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
chromium --headless=new --no-sandbox --disable-gpu --hide-scrollbars --user-data-dir="$folder" \
    --window-size="1000,${3:-1290}" --force-device-scale-factor="${4:-1.5}" \
    --virtual-time-budget=5000 --screenshot="$picture" "file://$report" 2> /dev/null
