#!/bin/bash
# Builds the Kubernetes components from Debian's source package: build-kubernetes.sh DESTINATION
# Debian packages only kubectl, but the source package carries all of Kubernetes and its vendor tree.
# About 12 CPU minutes. DESTINATION/bin appears in one rename, so that an interrupted build is never taken for a whole one.
set -euo pipefail

destination=${1:?where the binaries go}
version=1.20.2
work=$destination.build
components=(kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy)

mkdir -p "$(dirname "$destination")"
exec 9>"$destination.lock"
flock 9 # one build at a time; whoever waited finds the binaries
[ -x "$destination/bin/kubelet" ] && exit
mkdir -p "$work/apt/lists/partial" "$work/apt/cache/archives/partial"
cd "$work"

# The noise of the build goes to a log, our own lines to the caller.
exec 3>&1 >>"$work/build.log" 2>&1
step() { echo "kubernetes: $*" >&3; }
trap 'step "failed, see $work/build.log"; tail -n 20 "$work/build.log" >&3' ERR

# An index and a sources entry of our own, for the mirror that the machine uses: its apt configuration stays as it is.
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Codename: bookworm' 'Component: main' | sort -u)
[ -n "$mirror" ] || { step "apt names no mirror of Debian bookworm; run apt-get update"; exit 1; }
cat > apt/debian.list <<SOURCES
deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ${mirror%%$'\n'*} bookworm main
SOURCES
apt=(apt-get -q -o "Dir::Etc::SourceList=$work/apt/debian.list" -o Dir::Etc::SourceParts=-
  -o "Dir::State::Lists=$work/apt/lists" -o "Dir::Cache=$work/apt/cache" -o APT::Sandbox::User=root)

if [ ! -f source/.complete ]; then
  step "fetching the source package (35 MB)"
  "${apt[@]}" update
  rm -rf source *.dsc *.tar.* kubernetes-*
  "${apt[@]}" source kubernetes
  mv kubernetes-*/ source

  # The vendored reflect2 1.0.1 with Go >= 1.18 crashes the API server (SIGSEGV in map iteration) on the first custom
  # resource that has annotations. Debian's own reflect2 1.0.2 does not.
  rm -rf source/vendor/github.com/modern-go/reflect2
  cp -rL /usr/share/gocode/src/github.com/modern-go/reflect2 source/vendor/github.com/modern-go/reflect2
  touch source/.complete
fi

cd source
mkdir -p .go/src/k8s.io
ln -sfn ../../.. .go/src/k8s.io/kubernetes
export PATH=/usr/lib/go-1.19/bin:$PATH GOPATH=$PWD/.go GOCACHE=$work/go-cache GOFLAGS=-buildvcs=false
export CGO_ENABLED=0 GO111MODULE=off
export KUBE_GIT_VERSION=v$version KUBE_GIT_TREE_STATE=archive KUBE_GIT_COMMIT=debian

step "building ${#components[@]} programs: 12 CPU minutes"
for i in "${!components[@]}"; do
  doing="building ${components[i]} ($((i + 1)) of ${#components[@]})"
  step "$doing, $SECONDS s so far"
  # Without the lock: were it to outlive this script, the next build would wait for it for ever.
  while sleep 30 && kill -0 $$; do step "$doing, $SECONDS s so far"; done 9>&- &
  heartbeat=$!
  nice -n 5 make -C .go/src/k8s.io/kubernetes "WHAT=cmd/${components[i]}"
  kill "$heartbeat"
  wait "$heartbeat" || true
done

staged=$work/bin
rm -rf "$staged"
mkdir "$staged"
for component in "${components[@]}"; do
  install -m 755 "_output/bin/$component" "$staged/" 2>/dev/null ||
    install -m 755 "_output/local/go/bin/$component" "$staged/"
  "$staged/$component" --version | grep -qF "v$version"
done
mkdir -p "$destination"
rm -rf "$destination/bin"
mv "$staged" "$destination/bin"
rm -rf "$work"
step "built in $SECONDS s: $destination/bin"
