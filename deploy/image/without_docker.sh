#!/usr/bin/env bash
# The image on a Debian or Ubuntu machine without a Docker engine and without a registry: a base image out of Debian's packages, the
# build of `make image` with Buildah, then deploy/image/check.py against the container that Podman runs. Needs root.
set -euo pipefail
cd "$(dirname "$0")/../.."

lacking=()
for program in buildah podman runc debootstrap; do command -v "$program" > /dev/null || lacking+=("$program"); done
[ -f /usr/share/keyrings/debian-archive-keyring.gpg ] || lacking+=(debian-archive-keyring)
if [ ${#lacking[@]} -gt 0 ]; then
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${lacking[@]}"
fi

export BASE=localhost/python:3.11
if ! podman image exists "$BASE"; then
  echo "image: a base image from Debian's packages, as slim as the official one"
  root=$(mktemp -d)
  debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$root" http://deb.debian.org/debian > "$root.log" 2>&1 \
    || { tail -20 "$root.log" >&2; exit 1; }
  rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/var/log/* "$root"/usr/share/{doc,man,locale,info}/*
  find "$root/usr/lib/python3.11" -name __pycache__ -prune -exec rm -rf {} +
  tar -C "$root" --sort=name --numeric-owner -c . | podman import -q - "$BASE" > /dev/null
  rm -rf "$root" "$root.log"
fi

# A machine that is itself a container or a bare virtual machine has no systemd session; chroot needs no kernel privileges either.
export ENGINE=buildah BUILDAH_ISOLATION=chroot
make image
python=.venv/bin/python
exec $python deploy/image/check.py --run "podman --cgroup-manager cgroupfs --runtime runc" "$@"
