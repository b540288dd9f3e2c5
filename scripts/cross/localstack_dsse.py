"""LocalStack's S3 and KMS, taught to treat aws:kms:dsse as it treats aws:kms: the key is checked, resolved and told.

Its S3 provider compares the algorithm with "aws:kms" alone, so a value that is equal to both stands in for that name. And its
IPv4 listener ignores its host and would listen on every interface, so the loopback is put in by force.
"""

import functools

from twisted.internet import endpoints

endpoints.TCP4ServerEndpoint = functools.partial(endpoints.TCP4ServerEndpoint, interface="127.0.0.1")

from localstack.runtime.main import main  # noqa: E402 (the listener must be in place first)
from localstack.services.s3 import provider  # noqa: E402


class EitherKms(str):
    __hash__ = str.__hash__

    def __eq__(self, other):
        return str(other) in ("aws:kms", "aws:kms:dsse")

    def __ne__(self, other):
        return not self == other


class Algorithms:
    AES256 = "AES256"
    aws_kms = EitherKms("aws:kms")
    aws_kms_dsse = "aws:kms:dsse"


provider.ServerSideEncryption = Algorithms
main()
