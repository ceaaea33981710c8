// What Python finds in a library: functions with C names that stay visible, while all else is hidden (-fvisibility=hidden).
#pragma once

#define PIKOJAX_EXPORT extern "C" __attribute__((visibility("default")))
