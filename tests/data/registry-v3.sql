PRAGMA application_id=1718906929;
BEGIN TRANSACTION;
CREATE TABLE alias_history (
	number INTEGER NOT NULL, 
	alias TEXT NOT NULL, 
	from_model TEXT, 
	to_model TEXT NOT NULL, 
	reason TEXT NOT NULL, 
	moved_at FLOAT NOT NULL, 
	PRIMARY KEY (number)
);
INSERT INTO "alias_history" VALUES(1,'support@production',NULL,'ft:gpt-4.1-mini-2025-04-14:org-test::0001','it is good',1.79555805544362711905e+09);
CREATE TABLE aliases (
	alias TEXT NOT NULL, 
	endpoint TEXT NOT NULL, 
	model_id TEXT NOT NULL, 
	moved_at FLOAT NOT NULL, 
	PRIMARY KEY (alias)
);
INSERT INTO "aliases" VALUES('support@production','http://127.0.0.1:8000/v1','ft:gpt-4.1-mini-2025-04-14:org-test::0001',1.79555805544154953954e+09);
CREATE TABLE costs (
	endpoint TEXT NOT NULL, 
	job_id TEXT NOT NULL, 
	run_id TEXT, 
	currency TEXT NOT NULL, 
	estimated FLOAT, 
	actual FLOAT, 
	price_row TEXT, 
	PRIMARY KEY (endpoint, job_id)
);
INSERT INTO "costs" VALUES('http://127.0.0.1:8000/v1','ftjob-0001','run-56f33be91055','USD',0.02,0.006,'{"model":"gpt-4.1-mini-2025-04-14","currency":"USD","epochs":3,"epochs_low":3,"epochs_high":3,"epochs_rule":"asked","tokens_per_epoch":400,"low":0.02,"expected":0.02,"high":0.02,"price_per_million":5.0,"price_as_of":"2025-07-01","source":"a test","warning":""}');
CREATE TABLE evaluations (
	id TEXT NOT NULL, 
	created_at INTEGER NOT NULL, 
	data TEXT NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE events (
	endpoint TEXT NOT NULL, 
	job_id TEXT NOT NULL, 
	id TEXT NOT NULL, 
	created_at INTEGER NOT NULL, 
	position INTEGER NOT NULL, 
	data TEXT NOT NULL, 
	PRIMARY KEY (endpoint, job_id, id)
);
INSERT INTO "events" VALUES('http://127.0.0.1:8000/v1','ftjob-0001','ftevent-0001-1',1795558055,0,'{"id":"ftevent-0001-1","created_at":1795558055,"level":"info","type":"metrics","message":"Step 1/8: training loss=1.00","data":{"step":1,"total_steps":8,"train_loss":1.0}}');
INSERT INTO "events" VALUES('http://127.0.0.1:8000/v1','ftjob-0001','ftevent-0001-2',1795558056,1,'{"id":"ftevent-0001-2","created_at":1795558056,"level":"info","type":"metrics","message":"Step 2/8: training loss=0.50","data":{"step":2,"total_steps":8,"train_loss":0.5}}');
INSERT INTO "events" VALUES('http://127.0.0.1:8000/v1','ftjob-0001','ftevent-0001-3',1795558057,2,'{"id":"ftevent-0001-3","created_at":1795558057,"level":"info","type":"metrics","message":"Step 3/8: training loss=0.33","data":{"step":3,"total_steps":8,"train_loss":0.3333333333333333}}');
INSERT INTO "events" VALUES('http://127.0.0.1:8000/v1','ftjob-0001','ftevent-0001-4',1795558058,3,'{"id":"ftevent-0001-4","created_at":1795558058,"level":"info","type":"metrics","message":"Step 4/8: training loss=0.25","data":{"step":4,"total_steps":8,"train_loss":0.25}}');
CREATE TABLE files (
	endpoint TEXT NOT NULL, 
	sha256 TEXT NOT NULL, 
	data TEXT NOT NULL, 
	last_seen FLOAT NOT NULL, 
	PRIMARY KEY (endpoint, sha256)
);
INSERT INTO "files" VALUES('http://127.0.0.1:8000/v1','571f794df2ad88fc3db439bfb4482b806a7a210febb2ebde2054c32abd7423a0','{"id":"file-0001","endpoint":"http://127.0.0.1:8000/v1","sha256":"571f794df2ad88fc3db439bfb4482b806a7a210febb2ebde2054c32abd7423a0","bytes":1092,"filename":"ftpipe-571f794df2ad88fc.jsonl","created_at":1795558054,"reused":false}',1.79555805414011120796e+09);
CREATE TABLE jobs (
	endpoint TEXT NOT NULL, 
	id TEXT NOT NULL, 
	run_id TEXT, 
	status TEXT NOT NULL, 
	data TEXT NOT NULL, 
	updated_at FLOAT NOT NULL, 
	PRIMARY KEY (endpoint, id)
);
INSERT INTO "jobs" VALUES('http://127.0.0.1:8000/v1','ftjob-0001','run-56f33be91055','succeeded','{"id":"ftjob-0001","endpoint":"http://127.0.0.1:8000/v1","provider":"test","status":"succeeded","model":"gpt-4.1-mini-2025-04-14","training_file":"file-0001","validation_file":null,"method":"supervised","asked":{"n_epochs":"auto","batch_size":"auto","learning_rate_multiplier":"auto","beta":null,"extra":{}},"resolved":{"n_epochs":3,"batch_size":1,"learning_rate_multiplier":1.8,"beta":null,"extra":{}},"suffix":null,"seed":7,"created_at":1795558054,"finished_at":1795558055,"estimated_finish":null,"fine_tuned_model":"ft:gpt-4.1-mini-2025-04-14:org-test::0001","trained_tokens":1200,"error":null,"result_files":[],"metadata":{"ftpipe_run":"run-56f33be91055","ftpipe_key":"60da6dcc614fa5a0f14ddc51473153ef259472a8014e2306a6a351d2a0900c44"}}',1.79555805517792797095e+09);
CREATE TABLE models (
	endpoint TEXT NOT NULL, 
	id TEXT NOT NULL, 
	job_id TEXT NOT NULL, 
	run_id TEXT, 
	created_at INTEGER NOT NULL, 
	data TEXT NOT NULL, 
	PRIMARY KEY (endpoint, id)
);
INSERT INTO "models" VALUES('http://127.0.0.1:8000/v1','ft:gpt-4.1-mini-2025-04-14:org-test::0001','ftjob-0001','run-56f33be91055',1795558055,'{"id":"ft:gpt-4.1-mini-2025-04-14:org-test::0001","base":"gpt-4.1-mini-2025-04-14","provider":"test","endpoint":"http://127.0.0.1:8000/v1","method":"supervised","job_id":"ftjob-0001","file_id":"file-0001","dataset_sha256":"571f794df2ad88fc3db439bfb4482b806a7a210febb2ebde2054c32abd7423a0","validation_sha256":null,"run_id":"run-56f33be91055","asked":{"n_epochs":"auto","batch_size":"auto","learning_rate_multiplier":"auto","beta":null,"extra":{}},"resolved":{"n_epochs":3,"batch_size":1,"learning_rate_multiplier":1.8,"beta":null,"extra":{}},"seed":7,"trained_tokens":1200,"currency":"USD","estimated_cost":0.02,"actual_cost":0.006,"metrics":{"step":4,"total_steps":8,"train_loss":0.25,"train_mean_token_accuracy":null,"valid_loss":null,"valid_mean_token_accuracy":null,"full_valid_loss":null,"full_valid_mean_token_accuracy":null},"checkpoints":[],"base_shutdown_date":null,"created_at":1795558055}');
CREATE TABLE operations (
	"key" TEXT NOT NULL, 
	run_id TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	endpoint TEXT NOT NULL, 
	request_sha256 TEXT NOT NULL, 
	state TEXT NOT NULL, 
	attempt INTEGER NOT NULL, 
	remote_id TEXT, 
	sent_at FLOAT, 
	resolved_at FLOAT, 
	estimated_cost FLOAT, 
	detail TEXT NOT NULL, 
	PRIMARY KEY ("key")
);
INSERT INTO "operations" VALUES('60da6dcc614fa5a0f14ddc51473153ef259472a8014e2306a6a351d2a0900c44','run-56f33be91055','create_job','http://127.0.0.1:8000/v1','c2e4af1dcd4142d26fe78158c066cb23f832ad3a05095e8429d28ef0b8178bb1','confirmed',1,'ftjob-0001',1.79555805437930583951e+09,1.79555805452190184591e+09,0.02,'');
CREATE TABLE parts (
	upload_id TEXT NOT NULL, 
	number INTEGER NOT NULL, 
	part_id TEXT NOT NULL, 
	sha256 TEXT NOT NULL, 
	PRIMARY KEY (upload_id, number)
);
CREATE TABLE runs (
	id TEXT NOT NULL, 
	"key" TEXT NOT NULL, 
	ordinal INTEGER NOT NULL, 
	endpoint TEXT NOT NULL, 
	state TEXT NOT NULL, 
	spec TEXT NOT NULL, 
	dataset_sha256 TEXT NOT NULL, 
	validation_sha256 TEXT, 
	dataset TEXT, 
	validation TEXT, 
	cost TEXT, 
	file TEXT, 
	validation_file TEXT, 
	job_id TEXT, 
	model_id TEXT, 
	error TEXT NOT NULL, 
	created_at FLOAT NOT NULL, 
	sequence INTEGER DEFAULT '0' NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE ("key", ordinal)
);
INSERT INTO "runs" VALUES('run-56f33be91055','6068e21274cc1260168e8b246f453752718a1b9a4198a74b0d23ee7c73f49549',0,'http://127.0.0.1:8000/v1','registered','{"provider":"test","data":"/home/me/work/train.jsonl","validation":null,"model":"gpt-4.1-mini-2025-04-14","method":"supervised","hyperparameters":{"n_epochs":"auto","batch_size":"auto","learning_rate_multiplier":"auto","beta":null,"extra":{}},"suffix":null,"seed":7,"integrations":[],"metadata":{}}','571f794df2ad88fc3db439bfb4482b806a7a210febb2ebde2054c32abd7423a0',NULL,'{"path":"/home/me/work/train.jsonl","sha256":"571f794df2ad88fc3db439bfb4482b806a7a210febb2ebde2054c32abd7423a0","bytes":1092,"examples":1,"format":"chat"}',NULL,'{"model":"gpt-4.1-mini-2025-04-14","currency":"USD","epochs":3,"epochs_low":3,"epochs_high":3,"epochs_rule":"asked","tokens_per_epoch":400,"low":0.02,"expected":0.02,"high":0.02,"price_per_million":5.0,"price_as_of":"2025-07-01","source":"a test","warning":""}','{"id":"file-0001","endpoint":"http://127.0.0.1:8000/v1","sha256":"571f794df2ad88fc3db439bfb4482b806a7a210febb2ebde2054c32abd7423a0","bytes":1092,"filename":"ftpipe-571f794df2ad88fc.jsonl","created_at":1795558054,"reused":false}',NULL,'ftjob-0001','ft:gpt-4.1-mini-2025-04-14:org-test::0001','',1795558053.0,1);
CREATE TABLE schema_version (
	number INTEGER NOT NULL, 
	applied_at TEXT NOT NULL, 
	PRIMARY KEY (number)
);
INSERT INTO "schema_version" VALUES(1,'2026-11-24T22:07:33+00:00');
INSERT INTO "schema_version" VALUES(2,'2026-11-24T22:07:33+00:00');
INSERT INTO "schema_version" VALUES(3,'2026-11-24T22:07:33+00:00');
CREATE TABLE uploads (
	endpoint TEXT NOT NULL, 
	sha256 TEXT NOT NULL, 
	upload_id TEXT NOT NULL, 
	part_bytes INTEGER NOT NULL, 
	expires_at FLOAT NOT NULL, 
	PRIMARY KEY (endpoint, sha256)
);
CREATE INDEX ix_runs_job_id ON runs (job_id);
CREATE INDEX ix_operations_run_id ON operations (run_id);
CREATE INDEX ix_jobs_run_id ON jobs (run_id);
CREATE INDEX ix_alias_history_alias ON alias_history (alias);
COMMIT;
