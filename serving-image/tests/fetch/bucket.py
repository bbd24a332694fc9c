"""Fills a bucket of a moto server, makes a user who may read it, and turns the checking of
signatures on."""

import json
import pathlib
import sys
import urllib.request

import boto3

endpoint, site = sys.argv[1], pathlib.Path(sys.argv[2])
options = {
    "endpoint_url": endpoint,
    "region_name": "us-east-1",
    "aws_access_key_id": "root",
    "aws_secret_access_key": "root",
}
s3 = boto3.client("s3", **options)
s3.create_bucket(Bucket="models")
for path in site.rglob("*"):
    if path.is_file():
        s3.upload_file(str(path), "models", str(path.relative_to(site)))
iam = boto3.client("iam", **options)
iam.create_user(UserName="reader")
policy = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": ["s3:GetObject", "s3:ListBucket"], "Resource": "*"}],
}
iam.put_user_policy(UserName="reader", PolicyName="read", PolicyDocument=json.dumps(policy))
key = iam.create_access_key(UserName="reader")["AccessKey"]
# From here on, each request is checked.
address = f"{endpoint}/moto-api/reset-auth"
headers = {"Content-Type": "text/plain"}
urllib.request.urlopen(urllib.request.Request(address, data=b"0", headers=headers)).read()
print(key["AccessKeyId"], key["SecretAccessKey"])
