-- Where a batch's results go: an address in object storage. NULL: into the run folder of each machine.
ALTER TABLE batch ADD COLUMN results text;
