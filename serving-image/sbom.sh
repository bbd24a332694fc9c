#!/bin/sh
# Prints a CycloneDX document of libraries, each given as: NAME VERSION LICENCE PURL.
set -eu
separator=
printf '{"bomFormat":"CycloneDX","specVersion":"1.5","version":1,"components":['
while [ $# -gt 0 ]; do
    for word in "$1" "$2" "$3" "$4"; do
        case "$word" in '' | *[!A-Za-z0-9\ @%:/.+~_-]*) echo "sbom.sh: not a plain word: '$word'" >&2; exit 1 ;; esac
    done
    printf '%s{"type":"library","name":"%s","version":"%s","licenses":[{"expression":"%s"}],"purl":"%s"}' \
        "$separator" "$1" "$2" "$3" "$4"
    separator=,
    shift 4
done
printf ']}\n'
