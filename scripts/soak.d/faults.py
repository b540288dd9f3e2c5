"""What goes wrong in a soak: in plans for the endpoint (crates/dssefs-emulator/src/faults/plan.rs), and what the store and KMS promise to survive."""


def failure(status, code):
    return {"failure": {"status": status, "code": code, "message": "on purpose"}}


def rule(operation, fault, times):
    return [{"operation": operation, "times": times, "fault": fault}]


WRITES = ["PutObject", "UploadPart", "CompleteMultipartUpload", "CopyObject", "DeleteObject"]
# Not among them: wrong SSE answers to a PutObject, a CopyObject and a CompleteMultipartUpload, which may cost the object that was
# replaced (docs/SEMANTICS.md, Encryption settings), and flipped bytes of a GetObject, as S3 has no checksums of ranges.
WRONG_SSE = ["CreateMultipartUpload", "UploadPart", "HeadObject", "GetObject"]
LATE = ["CopyObject", "UploadPartCopy", "CompleteMultipartUpload"]
BODIES = ["GetObject", "ListObjectsV2", "CopyObject", "CompleteMultipartUpload"]


# Requests pass them within their tries.
PASSING = [
    lambda chance: rule("*", failure(503, "SlowDown"), chance.randint(1, 4)),
    lambda chance: rule(chance.choice(WRITES), failure(500, "InternalError"), chance.randint(1, 4)),
    lambda chance: rule("*", "reset", chance.randint(1, 4)),
    lambda chance: rule(chance.choice(WRITES), "lose_answer", chance.randint(1, 2)),
    lambda chance: rule("*", {"delay_ms": chance.randint(20, 400)}, chance.randint(5, 50)),
    lambda chance: rule(chance.choice(["PutObject", "CopyObject", "UploadPart"]), "throttle_kms", chance.randint(1, 4)),
    lambda chance: rule("kms:*", failure(400, "ThrottlingException"), chance.randint(1, 3)),
    lambda chance: rule(chance.choice(["PutObject", "UploadPart"]), {"flip_request_byte": chance.randrange(3_000)}, chance.randint(1, 3)),
    lambda chance: rule(chance.choice(BODIES), {"cut_body_after": chance.randrange(300)}, chance.randint(1, 2)),
    lambda chance: rule(chance.choice(LATE), {"ok_with_error_body": {"code": "InternalError", "message": "on purpose"}}, chance.randint(1, 3)),
    lambda chance: rule("*", chance.choice(["stall", "stall_answer"]), chance.randint(1, 2)),
]

# Programs may be told of them.
LASTING = [
    lambda chance: rule("*", failure(503, "SlowDown"), chance.randint(5, 40)),
    lambda chance: rule("PutObject", failure(503, "ServiceUnavailable"), 0),
    lambda chance: rule("*", "stall", 0),
    lambda chance: rule(chance.choice(["PutObject", "CompleteMultipartUpload"]), failure(403, "AccessDenied"), 0),
    lambda chance: rule(chance.choice(WRONG_SSE), {"sse": {"algorithm": chance.choice(["aws:kms", "AES256"])}}, chance.randint(1, 3)),
]


class Faults:
    """Arms faults of the store, of the key and of the local disk, and counts them by kind."""

    def __init__(self, endpoint, disk, chance):
        self.endpoint, self.disk, self.chance, self.armed = endpoint, disk, chance, {}

    def inject_faults(self):
        """Arms one at random, and gives the seconds after which to clear it."""
        kind = self.chance.choices(["passing", "lasting", "key", "disk"], [6, 4, 1, 2])[0]
        if kind == "passing":
            self.passing()
        elif kind == "lasting":
            self.arm(self.chance.choice(LASTING)(self.chance))
        elif kind == "key":
            self.endpoint.disable_key()
            self.count("key disabled")
        elif self.disk.fill(self.chance):
            self.count("disk full")
        return 1 + 4 * self.chance.random()

    def passing(self):
        self.arm(self.chance.choice(PASSING)(self.chance))

    def arm(self, plan):
        self.endpoint.arm(plan)
        fault = plan[0]["fault"]
        self.count(fault if isinstance(fault, str) else next(iter(fault)))

    def count(self, kind):
        self.armed[kind] = self.armed.get(kind, 0) + 1

    def clear_faults(self):
        self.endpoint.clear_faults()
        self.disk.empty()
