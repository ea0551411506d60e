/*
 * api - the HTTP API: paths, arguments, answers
 *
 *	GET  /v1/status /v1/tree /v1/who /v1/backends /v1/crashes /v1/crashes/SESSION
 *	POST /v1/backends/SERVICE/NAME/drain|ready   /v1/sessions/ID/kick|move   /v1/reload
 *	     with {"reason": "..."}, which may be left out
 *
 * Answers are JSON objects, faults {"error": "..."} with the fitting status. bmr(8) has them all.
 */
#ifndef WORKERS_ADMIN_API_H
#define WORKERS_ADMIN_API_H

#include "workers/admin/http.h"

http_handler	api_handle;		/* self: struct admin */

#endif
