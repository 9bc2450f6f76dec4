"""What a Hub holds: repositories of commits, and what it says of their files."""

import hashlib
import json
from dataclasses import dataclass, field

import yaml
from huggingface_hub import RepoCard
from huggingface_hub.repocard_data import model_index_to_eval_results

LARGE = (".safetensors", ".parquet", ".png", ".onnx")


@dataclass
class Repo:
    """A repository: whether it is private, and its commits, each a whole listing of path -> content."""

    private: bool
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)

    @property
    def files(self) -> dict[str, bytes]:
        """The files of the newest commit."""
        return self.commits[-1][1]

    def commit(self, message: str, files: dict[str, bytes]) -> str:
        """Adds a commit of these files and returns its hash."""
        listing = {path: hashlib.sha1(content).hexdigest() for path, content in files.items()}
        oid = hashlib.sha1(json.dumps([len(self.commits), message, listing]).encode()).hexdigest()
        self.commits.append((oid, files))
        return oid

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit that a revision names."""
        if revision == "main":
            return self.commits[-1]
        return next((commit for commit in self.commits if commit[0] == revision), None)


def content_id(path: str, content: bytes) -> str:
    """What the Hub calls a content: the sha256 of a large file, the hash of git of any other."""
    if path.endswith(LARGE):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _metadata(files: dict[str, bytes]) -> dict:
    return RepoCard(files["README.md"].decode()).data.to_dict() if "README.md" in files else {}


def metadata_errors(content: str) -> list[str]:
    """What is wrong with the metadata of a card, as far as huggingface_hub's own reader tells."""
    try:
        metadata = RepoCard(content).data.to_dict()
        if "model-index" in metadata:
            model_index_to_eval_results(metadata["model-index"])
    except (ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        return [f"{type(error).__name__}: {error}"]
    known = {"license": str, "tags": list, "pipeline_tag": str, "library_name": str}
    return [f'"{k}" must be a {t.__name__}' for k, t in known.items() if not isinstance(metadata.get(k, t()), t)]


def tree(files: dict[str, bytes], folder: str, deep: bool) -> list[dict]:
    """What the API tells of the files of a folder, with those below where `deep`."""
    prefix = f"{folder.rstrip('/')}/" if folder else ""
    entries: dict[str, dict] = {}
    for path, content in files.items():
        first = path.removeprefix(prefix).split("/")
        if not path.startswith(prefix):
            continue
        for depth in range(1, len(first)):
            parent = prefix + "/".join(first[:depth])
            if deep or depth == 1:
                entries[parent] = {"type": "directory", "path": parent, "oid": "0" * 40, "size": 0}
        if deep or len(first) == 1:
            sha = hashlib.sha256(content).hexdigest()
            lfs = {"lfs": {"oid": sha, "size": len(content), "pointerSize": 134}} if path.endswith(LARGE) else {}
            entries[path] = {
                "type": "file",
                "path": path,
                "size": len(content),
                "oid": content_id(path, content),
                **lfs,
            }
    return list(entries.values())


def info(name: str, private: bool, oid: str, files: dict[str, bytes]) -> dict:
    """What the API tells of a repository at a commit."""
    identity = name.split("/", 1)[1]
    extra = {"pipeline_tag": _metadata(files).get("pipeline_tag"), "tags": _metadata(files).get("tags", [])}
    siblings = [{"rfilename": path} for path in files]
    return {"id": identity, "_id": oid, "sha": oid, "private": private, "siblings": siblings, **extra}
