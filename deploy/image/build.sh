#!/usr/bin/env bash
# make image: models/bento as an OCI image, built by `bentoml containerize` with Docker, Podman or Buildah.
# ENGINE says which one (else the first that works), IMAGE the name, BASE an image with Python 3.11 to build on.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH=$PWD/.venv/bin:$PATH

stop() { echo "image: $*" >&2; exit 1; }
works() { case $1 in docker) docker version --format '{{.Server.Version}}' ;; *) "$1" version ;; esac > /dev/null 2>&1; }

bento=$PWD/models/bento
[ -f "$bento/bento.yaml" ] || stop "models/bento is not there. Type dvc repro (or dvc pull) first."
[ -f "$bento/env/docker/Dockerfile.template" ] || stop "models/bento was built without deploy/image/Dockerfile.j2. Type dvc repro."

engine=${ENGINE:-}
for found in docker podman buildah; do
  [ -n "$engine" ] || ! works "$found" || engine=$found
done
[ -n "$engine" ] || stop "neither Docker, Podman nor Buildah works here. Install one; on Debian or Ubuntu: apt-get install buildah podman"
works "$engine" || stop "$engine does not answer. Is it installed, and its service running?"

field() { sed -n "s/^$1: *//p" "$bento/bento.yaml" | tr -d "'\""; }
name=$(field name) version=$(field version)
image=${IMAGE:-${name//_/-}}
digest=$(python -c 'import sys; from '"$name"'.artifact.predictor import Predictor; print(Predictor(sys.argv[1]).digest)' "$bento/src/models/final")
revision=$(git rev-parse HEAD 2> /dev/null || echo unknown)
[ -z "$(git status --porcelain --untracked-files=no 2> /dev/null)" ] || revision="$revision-dirty"

# The packages are fetched here, with this machine's pip settings, and checked against the lock file's hashes: no address and no
# password of a package index can get into the image.
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
place=$home/bentos/$name/$version
mkdir -p "$place" && cp -R "$bento/." "$place"
grep -v '^bentoml==[^ ]*$' "$bento/env/python/requirements.txt" > "$home/locked.txt"
python -m pip download --quiet --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
  -r "$home/locked.txt" -d "$place/env/python/wheels"

# BentoML 1.4 reads the template of a Dockerfile from its temporary folder, and refuses to when that is not below the current one.
cd "$home"
TMPDIR=$home BENTOML_HOME=$home BENTOML_DO_NOT_TRACK=True bentoml containerize "$name:$version" --backend "$engine" -t "$image:$version" -t "$image:latest" \
  --opt "label=org.opencontainers.image.title=$image" --opt "label=org.opencontainers.image.version=$version" \
  --opt "label=org.opencontainers.image.revision=$revision" --opt "label=mle.model.digest=$digest" \
  --opt "build-arg=REVISION=$revision" ${BASE:+--opt "build-arg=BASE=$BASE"}
echo "image: $image:$version (model $version, $engine)"
