"""moto's S3 server, taught to answer with the key of an aws:kms:dsse object as it does for aws:kms.

moto (5.2) compares the algorithm with "aws:kms" alone. Nothing else is changed. The arguments are those of moto_server.
"""

import sys

from moto.s3 import models
from moto.server import main

plain = models.FakeKey.response_dict.fget


def response_dict(self):
    headers = plain(self)
    if self.encryption == "aws:kms:dsse" and self.kms_key_id is not None:
        headers["x-amz-server-side-encryption-aws-kms-key-id"] = self.kms_key_id
    return headers


models.FakeKey.response_dict = property(response_dict)
main(sys.argv[1:])
