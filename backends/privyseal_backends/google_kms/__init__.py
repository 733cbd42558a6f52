"""Google Cloud KMS: keys named by `gcpkms://projects/…/cryptoKeyVersions/N`.

`GoogleKmsStore` says which credentials and roles it needs, what the URI looks like and which errors come out.
"""
