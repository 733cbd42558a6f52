"""Helpers of the tests of the audit trail: records, faulty files, kills, small disks."""
