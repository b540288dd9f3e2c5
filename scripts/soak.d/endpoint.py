"""The endpoint of a soak: started, asked with signed requests as anybody would ask S3 and KMS, and told which faults to have."""

import base64
import datetime
import hashlib
import hmac
import json
import os
import subprocess
import urllib.parse
import urllib.request
import xml.etree.ElementTree as xml

BUCKET = "soak"
REGION = "us-east-1"
KEYS = "dssefs", "dssefs-secret"


def digest(key, text):
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


class Endpoint:
    def __init__(self, program, directory):
        command = [program, "serve", "--listen", "127.0.0.1:0", "--data", str(directory / "store"), "--bucket", BUCKET]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=open(directory / "serve.log", "w"), text=True)
        self.url = self.process.stdout.readline().rsplit(maxsplit=1)[-1]
        self.key = self.kms("CreateKey", {})["KeyMetadata"]["Arn"]

    def options(self):
        """What tells dssefs where S3 and KMS are."""
        return ["--endpoint-url", self.url, "--kms-endpoint-url", self.url, "--force-path-style", "--region", REGION]

    def environment(self):
        """For dssefs, with nothing of whoever runs this."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "DSSEFS_"))}
        environment |= {"AWS_ACCESS_KEY_ID": KEYS[0], "AWS_SECRET_ACCESS_KEY": KEYS[1], "AWS_EC2_METADATA_DISABLED": "true"}
        return environment | {"AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null"}

    def signed(self, service, method, path, query, body, headers):
        """AWS Signature Version 4 ("Create a signed AWS API request", IAM User Guide)."""
        host = self.url.removeprefix("http://")
        now = datetime.datetime.now(datetime.timezone.utc)
        stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
        payload = hashlib.sha256(body).hexdigest()
        headers = {**headers, "host": host, "x-amz-date": stamp, "x-amz-content-sha256": payload}
        names = ";".join(sorted(headers))
        query = "&".join(f"{k}={urllib.parse.quote(v, safe='-_.~')}" for k, v in sorted(query.items()))
        path = urllib.parse.quote(path, safe="/-_.~")
        lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
        request = "\n".join([method, path, query, lines, names, payload])
        scope = f"{day}/{REGION}/{service}/aws4_request"
        text = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(request.encode()).hexdigest()])
        key = digest(("AWS4" + KEYS[1]).encode(), day)
        for part in (REGION, service, "aws4_request"):
            key = digest(key, part)
        signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
        headers["authorization"] = f"AWS4-HMAC-SHA256 Credential={KEYS[0]}/{scope}, SignedHeaders={names}, Signature={signature}"
        address = f"{self.url}{path}" + (f"?{query}" if query else "")
        return urllib.request.urlopen(urllib.request.Request(address, body or None, headers, method=method), timeout=60)

    def kms(self, action, parameters):
        headers = {"content-type": "application/x-amz-json-1.1", "x-amz-target": f"TrentService.{action}"}
        answer = self.signed("kms", "POST", "/", {}, json.dumps(parameters).encode(), headers).read()
        return json.loads(answer or b"{}")

    def keys(self):
        after = {}
        while True:
            page = xml.fromstring(self.signed("s3", "GET", f"/{BUCKET}", {"list-type": "2", **after}, b"", {}).read())
            yield from (key.text for key in page.iterfind("{*}Contents/{*}Key"))
            if page.findtext("{*}IsTruncated") != "true":
                return
            after = {"continuation-token": page.findtext("{*}NextContinuationToken")}

    def is_dsse(self, key):
        head = self.signed("s3", "HEAD", f"/{BUCKET}/{key}", {}, b"", {}).headers
        algorithm, arn = "x-amz-server-side-encryption", "x-amz-server-side-encryption-aws-kms-key-id"
        return (head[algorithm], head[arn]) == ("aws:kms:dsse", self.key)

    def uploads_with_parts(self):
        """An upload whose id no client ever heard has no parts and costs nothing."""
        page = xml.fromstring(self.signed("s3", "GET", f"/{BUCKET}", {"uploads": ""}, b"", {}).read())
        found = [(up.findtext("{*}Key"), up.findtext("{*}UploadId")) for up in page.iterfind("{*}Upload")]
        parts = lambda key, id: xml.fromstring(self.signed("s3", "GET", f"/{BUCKET}/{key}", {"uploadId": id}, b"", {}).read())
        return [key for key, id in found if parts(key, id).find("{*}Part") is not None]

    def admin(self, path, *value):
        """Asks an address of the endpoint's own; with a value, tells it that."""
        request = urllib.request.Request(f"{self.url}/_dssefs/{path}", *[json.dumps(it).encode() for it in value])
        request.add_header("authorization", "Basic " + base64.b64encode(":".join(KEYS).encode()).decode())
        return urllib.request.urlopen(request, timeout=10).read()

    def arm(self, plan):
        self.admin("faults", plan)

    def disable_key(self):
        self.kms("DisableKey", {"KeyId": self.key})

    def clear_faults(self):
        self.admin("faults", [])
        self.kms("EnableKey", {"KeyId": self.key})

    def stop(self):
        self.process.terminate()
        self.process.wait(30)
