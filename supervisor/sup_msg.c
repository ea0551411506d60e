/* sup_msg - senders and dispatcher of the messages between bmrd and its children */
#include "supervisor/sup_msg.h"

#define MSG_SET sup
#define MSG_DEF "supervisor/sup.def"
#include "supervisor/msg_impl.h"
