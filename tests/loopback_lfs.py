"""The loopback Hub's store of large files: git-lfs, whole or in numbered parts."""

import hashlib
import json


class LargeFiles:
    """Answers the steps `batch`, `upload`, `part`, `complete` and `verify`."""

    def _batch(self, body, repo):
        objects = []
        for wanted in json.loads(body)["objects"]:
            oid, size = wanted["oid"], wanted["size"]
            answer = {"oid": oid, "size": size}
            if oid not in self.hub.lfs:
                verify = {"href": f"{self.hub.url}/lfs/verify"}
                answer["actions"] = {
                    "upload": self._where_to(oid, size),
                    "verify": verify,
                }
            objects.append(answer)
        self._json({"transfer": "basic", "objects": objects})

    def _where_to(self, oid, size):
        href, chunk_size = f"{self.hub.url}/lfs/{oid}", self.hub.chunk_size
        if chunk_size is None or size <= chunk_size:
            return {"href": href}
        # A new upload takes none of an earlier one's parts.
        self.hub.parts[oid] = {}
        header = {"chunk_size": str(chunk_size)}
        for part in range(1, -(-size // chunk_size) + 1):
            header[f"{part:05}"] = f"{href}/parts/{part}"
        return {"href": f"{href}/complete", "header": header}

    def _upload(self, body, oid):
        self._store(oid, body)

    def _part(self, body, oid, number):
        self.hub.parts[oid][int(number)] = body
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.md5(body).hexdigest()}"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _complete(self, body, oid):
        values, parts = json.loads(body), self.hub.parts.get(oid, {})
        named = [(p["partNumber"], p["etag"]) for p in values["parts"]]
        here = [(n, f'"{hashlib.md5(parts[n]).hexdigest()}"') for n in sorted(parts)]
        if values["oid"] != oid or named != here:
            return self._refuse(400, "")
        self._store(oid, b"".join(parts[n] for n, _ in here))

    def _store(self, oid, data):
        if hashlib.sha256(data).hexdigest() != oid:
            return self._refuse(400, "")
        self.hub.lfs[oid] = data
        self._json({})

    def _verify(self, body):
        values = json.loads(body)
        known = len(self.hub.lfs.get(values["oid"], b"")) == values["size"]
        return self._json({}) if known else self._refuse(404, "")
