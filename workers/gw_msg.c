/* gw_msg - senders and dispatcher of the messages between the gateway's processes */
#include "workers/gw_msg.h"

#define MSG_SET gw
#define MSG_DEF "workers/gw.def"
#include "supervisor/msg_impl.h"
