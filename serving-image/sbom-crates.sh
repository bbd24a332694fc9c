#!/bin/sh
# Prints a CycloneDX document of every crate that is compiled into a package, with licence and
# sha256.
#
#   sh serving-image/sbom-crates.sh PACKAGE TARGET    in the folder of Cargo.lock
#
# Build scripts and procedural macros run on the builder and are not listed. The same Cargo.lock
# makes the same document.
set -eu
package=$1
target=$2
tree=$(cargo tree --locked --package "$package" --target "$target" --edges normal,no-proc-macro \
    --prefix none --no-dedupe --format '{p}|{l}')
printf '%s\n' "$tree" | LC_ALL=C sort -u | awk -v root="$package" '
    # First file, Cargo.lock: the checksum of each crate that a registry holds.
    FNR == NR {
        if ($1 == "name") name = $3
        if ($1 == "version") version = $3
        if ($1 == "checksum") checksum[name " " version] = $3
        next
    }
    {
        split($0, field, "|")
        split(field[1], word, " ")
        name = word[1]
        version = substr(word[2], 2)
        licence = field[2]
        gsub("/", " OR ", licence) # the form of old manifests
        if (name !~ /^[A-Za-z0-9_-]+$/ || version !~ /^[0-9][A-Za-z0-9.+-]*$/ \
            || licence !~ /^[A-Za-z0-9 ().+-]+$/) {
            print "sbom-crates.sh: not a crate with a licence: " $0 > "/dev/stderr"
            failed = 1
            exit 1
        }
        purl = "pkg:cargo/" name "@" version
        key = "\"" name "\" \"" version "\""
        text = sprintf("\"name\":\"%s\",\"version\":\"%s\"", name, version) \
            sprintf(",\"licenses\":[{\"expression\":\"%s\"}],\"purl\":\"%s\"", licence, purl)
        if (key in checksum)
            text = text ",\"hashes\":[{\"alg\":\"SHA-256\",\"content\":" checksum[key] "}]"
        if (name == root) subject = text
        else components = components (components == "" ? "" : ",") "{\"type\":\"library\"," text "}"
    }
    END {
        if (failed || subject == "") exit 1
        printf "{\"bomFormat\":\"CycloneDX\",\"specVersion\":\"1.5\",\"version\":1,"
        printf "\"metadata\":{\"component\":{\"type\":\"application\",%s}},", subject
        printf "\"components\":[%s]}\n", components
    }' Cargo.lock -
